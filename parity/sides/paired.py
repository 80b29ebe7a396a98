"""What of a PyTorch module belongs to what of its Flax counterpart: tensors and submodules.

Tensors are paired by the table of layers (`flax_bilstm.conversion.layers`), submodules by their
paths.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from flax import nnx
from jax import ShapeDtypeStruct

import flax_bilstm as fb
from flax_bilstm.arguments import quoted
from flax_bilstm.conversion import fit
from flax_bilstm.conversion.advice import advice
from flax_bilstm.conversion.rows import Row, matches, variables
from flax_bilstm.conversion.rows import rows as rows_of
from flax_bilstm.conversion.tensors import to_numpy
from parity.sides import dropout, refused
from parity.sides.intercept import nnx_submodules, torch_submodules
from parity.sides.ports import of_its_own, of_one_kind
from parity.sides.state_function import StateFunction

Names = Mapping[str, str | tuple[str, ...]]
"""Flax path of a module or parameter → torch path, where the names differ; several torch paths for
a tensor that has several names in torch."""


@dataclass(frozen=True)
class Tensors:
    """The tensors of the reference, each paired with variables of the candidate.

    Attributes:
        rows: a row for every tensor.
        spare: the rows of variables that the candidate has and the reference has not.
        refuse: raises the error that lists these.
    """

    rows: Sequence[Row]
    spare: Sequence[Row] = ()
    refuse: Callable[[], None] = lambda: None


def tensors(
    torch_model: torch.nn.Module, model: nnx.Module, names: Names | None, ignore: Sequence[str]
) -> Tensors:
    """The tensors, paired; an error that lists all mismatches, unless these are only spare ones."""
    if isinstance(model, StateFunction):
        if names:
            raise TypeError(
                "names: expected none for a function, which reads the reference's state dict, got "
                f"{quoted(names)}"
            )
        return Tensors(model.rows())
    found = rows_of(model, names, ignore)
    arrays = {
        name: array for name, array in to_numpy(torch_model.state_dict()).items()
        if not matches(name, ignore)
    }  # fmt: skip
    expected = fit.expected_tensors(found, variables(model))
    # In any dtype: a difference in dtype becomes a row of the report.
    open_dtypes = {
        n: ShapeDtypeStruct(s.shape, arrays.get(n, s).dtype) for n, s in expected.items()
    }

    def refuse() -> None:
        notes = list(advice(model, found, expected, arrays))
        fit.refuse(type(model).__name__, list(fit.problems(open_dtypes, arrays)), notes)

    spare = [row for row in found if arrays.keys().isdisjoint(row.torch_names)]
    of_spare = {name for row in spare for name in row.torch_names}
    others = {n: shape for n, shape in open_dtypes.items() if n not in of_spare}
    if list(fit.problems(others, arrays)):
        refuse()
    return Tensors([r for r in found if not of_spare.issuperset(r.torch_names)], spare, refuse)


@dataclass(frozen=True)
class Submodules:
    """The submodules of the same name, torch path → Flax path.

    Attributes:
        named: all of them.
        stages: those that are intercepted.
        with_ports: the torch paths of the stages that are a pair of `parity.sides.ports`.
        lstms: those of the LSTMs.
    """

    named: Mapping[str, str]
    stages: Mapping[str, str]
    with_ports: tuple[str, ...]
    lstms: tuple[str, ...]


def submodules(
    torch_model: torch.nn.Module,
    model: nnx.Module,
    names: Names | None,
    stages: Mapping[str, str] | None,
) -> Submodules:
    """The submodules, paired.

    Args:
        torch_model: the reference.
        model: the candidate.
        names: see `Names`.
        stages: the stages if they are given; None for all submodules of the same name.
    """
    theirs, ours = torch_submodules(torch_model), nnx_submodules(model)
    named = _named(theirs, ours, names or {})
    if stages is None:  # in evaluation mode a Dropout is nothing; one side may have it elsewhere
        stages = {
            path: own for path, own in named.items()
            if not dropout.is_layer(theirs[path]) and not of_its_own(theirs[path], ours[own])
        }  # fmt: skip
        whole = tuple(f"{p}." for p, own in stages.items() if of_one_kind(theirs[p], ours[own]))
        stages = {path: own for path, own in stages.items() if not path.startswith(whole)}
    refused.stages("torch_model", stages.keys(), theirs)
    refused.stages("flax_model", stages.values(), ours)
    if are_lstms(torch_model, model):
        stages = {"": ""}
    with_ports = tuple(p for p, own in stages.items() if of_one_kind(theirs[p], ours[own]))
    lstms = tuple(path for path in with_ports if isinstance(theirs[path], torch.nn.LSTM))
    return Submodules(named, stages, with_ports, lstms)


def are_lstms(torch_model: torch.nn.Module, model: Any) -> bool:
    """Whether the models are LSTMs themselves."""
    return isinstance(torch_model, torch.nn.LSTM) and isinstance(model, fb.LSTM)


def _named(theirs: Mapping[str, Any], ours: Mapping[str, Any], names: Names) -> dict[str, str]:
    found = {}
    for path in ours:
        name = _without_layers(path, ours)
        for flax, torch_name in names.items():
            if path == flax or path.startswith(f"{flax}."):
                first = torch_name if isinstance(torch_name, str) else torch_name[0]  # tied
                inner = _without_layers(path, ours).removeprefix(_without_layers(flax, ours))
                name = first + inner
        if name and name in theirs and path:
            found[name] = path
    return {name: found[name] for name in theirs if name in found}


def _without_layers(path: str, ours: Mapping[str, Any]) -> str:
    """The path without the "layers" of Flax's Sequential, which PyTorch's has not."""
    parts = path.split(".")
    return ".".join(
        part
        for i, part in enumerate(parts)
        if not (part == "layers" and isinstance(ours.get(".".join(parts[:i])), nnx.Sequential))
    )
