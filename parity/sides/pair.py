"""A `torch.nn.Module` and its Flax counterpart as a pair of sides.

Parameters are paired by the table of layers (`flax_bilstm.conversion.layers`), submodules by their
paths. Every submodule that can be intercepted on both sides is a stage.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flax import nnx
from jax import ShapeDtypeStruct

import flax_bilstm as fb
from flax_bilstm.conversion import fit
from flax_bilstm.conversion.advice import advice
from flax_bilstm.conversion.rows import Row, matches, variables
from flax_bilstm.conversion.rows import rows as rows_of
from flax_bilstm.conversion.tensors import to_numpy
from flax_bilstm.conversion.tree import dotted
from parity.sides import calls, dropout, hiding, refused, training_mode, unreached
from parity.sides.both_modes import shown_by
from parity.sides.common_stages import common_stages
from parity.sides.fresh import movable
from parity.sides.intercept import nnx_submodules, torch_submodules
from parity.sides.losses import MEAN_SQUARED_ERROR, Loss
from parity.sides.nnx_side import NnxSide
from parity.sides.recurrent import both_recurrent, of_its_own
from parity.sides.side import Arrays, Pair
from parity.sides.state_function import StateFunction
from parity.sides.torch_copy import rounded_constants
from parity.sides.torch_side import TorchSide
from parity.tolerances import TRUTH

Names = Mapping[str, str | tuple[str, ...]]
"""Flax path of a module or parameter → torch path, where the names differ; several torch paths for
a tensor that has several names in torch."""


@dataclass(frozen=True)
class ModulePair(Pair):
    """A pair of two modules, in which the cause of a failed check can be located.

    Attributes:
        torch_model: the reference.
        flax_model: the candidate.
        stages: torch path → Flax path of the submodules that are intercepted.
        lstms: torch paths of those that are an nn.LSTM in torch and a flax_bilstm.LSTM in Flax.
    """

    reference: TorchSide
    candidate: NnxSide
    torch_model: Any = None
    flax_model: Any = None
    stages: Mapping[str, str] | None = None
    lstms: tuple[str, ...] = ()


def of_modules(
    torch_model: torch.nn.Module,
    flax_model: nnx.Module | Callable[..., Any],
    inputs: Arrays,
    *,
    names: Names | None = None,
    ignore: Sequence[str] = (),
    stages: Mapping[str, str] | None = None,
    loss: Loss = MEAN_SQUARED_ERROR,
    keywords: Sequence[str] = (),
    targets: Sequence[str] = (),
    known: Mapping[str, str] | None = None,
) -> ModulePair:
    """The pair of torch_model, the reference, and flax_model, the candidate.

    Args:
        torch_model: the reference.
        flax_model: the candidate: a module, or a function of a state dict (names → arrays) and the
            inputs.
        inputs: the inputs of both models by name, in order.
        names: see `flax_bilstm.load_state_dict`.
        ignore: patterns of torch names without a counterpart, for instance buffers of a loss.
        stages: torch path → Flax path of the submodules to compare; None: all that both have.
        loss: the loss of the gradients and of training.
        keywords: the inputs that are passed by keyword.
        targets: the inputs that only the loss reads.
        known: known differences, a pattern of rows → the reason.

    Raises:
        TypeError: one of the models is of an unsupported type.
        ValueError: parameters have no counterpart, or another shape (the message names all), a
            model lacks a stage, or a known difference has no reason.
    """
    refused.known_differences(known or {})
    refused.models(torch_model, flax_model)
    if not isinstance(flax_model, nnx.Module):
        flax_model = StateFunction(flax_model, torch_model, ignore)
    spare: Sequence[Row] = ()
    if isinstance(flax_model, StateFunction):
        rows: Sequence[Row] = flax_model.rows()
    else:
        rows, spare, refuse = _rows(torch_model, flax_model, names, ignore)
    theirs, ours = torch_submodules(torch_model), nnx_submodules(flax_model)
    lstm_itself = isinstance(torch_model, torch.nn.LSTM) and isinstance(flax_model, fb.LSTM)
    paired = _paired(theirs, ours, names or {})
    if stages is None:  # in evaluation mode a Dropout is nothing; one side may have it elsewhere
        stages = {
            path: own for path, own in paired.items()
            if not dropout.is_layer(theirs[path]) and not of_its_own(theirs[path], ours[own])
        }  # fmt: skip
    refused.stages("torch_model", stages.keys(), theirs)
    refused.stages("flax_model", stages.values(), ours)
    if lstm_itself:
        stages = {"": ""}
    recurrent = tuple(p for p, own in stages.items() if both_recurrent(theirs[p], ours[own]))
    lstms = tuple(path for path in recurrent if isinstance(theirs[path], torch.nn.LSTM))
    positional = tuple(n for n in inputs if n not in (*keywords, *targets))
    alone = not lstm_itself and isinstance(flax_model, fb.BiLSTMWithAttention)
    torch_call: Any = calls.Positional(("x",) if alone else positional, tuple(keywords))
    flax_call: Any = calls.Positional(("x",), ("lengths",)) if alone else torch_call
    forward, call = type(torch_model).forward, type(flax_model).__call__
    torch_calls, flax_calls = torch_call.in_modes(forward), flax_call.in_modes(call)
    defaults = {*torch_call.not_given(forward), *flax_call.not_given(call)}
    if lstm_itself:
        torch_calls, flax_calls = (calls.torch_lstm,) * 2, (calls.flax_lstm,) * 2
        defaults = set()
    tensors = [name for row in rows for name in row.torch_names]

    output = "the output" if hasattr(torch_model, "output") else "output"  # a layer has that name
    reference = TorchSide(
        torch_model, torch_calls[0], loss, training_call=torch_calls[1], names=tensors,
        stages=stages, recurrent=recurrent, alone=alone, output=output,
    )  # fmt: skip
    shown = shown_by(reference, inputs)
    candidate = NnxSide(
        flax_model, rows, flax_calls[0], loss, training_call=flax_calls[1],
        stages=stages, recurrent=recurrent, output=output,
    )  # fmt: skip
    read = {n: array for n, array in inputs.items() if n not in targets}
    if isinstance(flax_model, StateFunction) and shown.unused:
        flax_model.leave(candidate.without_slope(shown.unused, read))
        candidate = NnxSide(
            flax_model, rows, flax_calls[0], loss, training_call=flax_calls[1],
            stages=stages, recurrent=recurrent, output=output,
        )  # fmt: skip
    chosen, notes = common_stages(reference, candidate, read)
    reference, candidate.running.chosen = reference.choosing(chosen), chosen
    if spare:
        moved = NnxSide(_with_other(flax_model, spare), rows, flax_calls[0], loss)
        if _differ(candidate, moved, read):
            refuse()
        unused = ", ".join(dotted(path) for row in spare for path in row.paths)
        what = "in flax_model only, where evaluation mode does not use it"
        notes.append(f"{what}: {unused}; delete it there, if training mode does not either")
    ignored = dict.fromkeys(n for n in torch_model.state_dict() if matches(n, ignore))
    known_spare = {dotted(path) for row in spare for path in row.paths}
    ignored |= dict.fromkeys(n for n in candidate.unpaired if n not in known_spare)
    rounded = rounded_constants(torch_model)
    notes += hiding.notes(ignored, reference.parameters, inputs, defaults, rounded)
    notes += unreached.of_reference(reference, read, training=shown.differs and not shown.problem)
    if shown.moved:
        changed = ", ".join(shown.moved)
        notes.append(f"torch_model changes {changed}, so only first calls are compared")
    fresh, unmoved = movable(reference, read)
    notes += unmoved
    trained = (
        training_mode.of_function(reference, shown)
        if isinstance(flax_model, StateFunction)
        else training_mode.arrange(reference, candidate, flax_model, shown, read, paired)
    )
    return ModulePair(
        reference, candidate, loss.name, (*notes, *trained.notes), trained.settings,
        trained.only, fresh,
        dict(known or {}), torch_model, flax_model, stages,
        lstms,
    )  # fmt: skip


def _rows(
    torch_model: torch.nn.Module, flax_model: Any, names: Names | None, ignore: Sequence[str]
) -> tuple[Sequence[Row], Sequence[Row], Callable[[], None]]:
    """A row for every tensor of the reference, or an error that lists all mismatches.

    If nothing is wrong except that the candidate has more variables, the second value has the rows
    of these, and the third raises the error.
    """
    found = rows_of(flax_model, names, ignore)
    arrays = {
        name: array for name, array in to_numpy(torch_model.state_dict()).items()
        if not matches(name, ignore)
    }  # fmt: skip
    expected = fit.expected_tensors(found, variables(flax_model))
    # In any dtype: a difference in dtype becomes a row of the report.
    open_dtypes = {
        n: ShapeDtypeStruct(s.shape, arrays.get(n, s).dtype) for n, s in expected.items()
    }

    def refuse() -> None:
        notes = list(advice(flax_model, found, expected, arrays))
        fit.refuse(type(flax_model).__name__, list(fit.problems(open_dtypes, arrays)), notes)

    spare = [row for row in found if arrays.keys().isdisjoint(row.torch_names)]
    of_spare = {name for row in spare for name in row.torch_names}
    others = {n: shape for n, shape in open_dtypes.items() if n not in of_spare}
    if list(fit.problems(others, arrays)):
        refuse()
    return [row for row in found if not of_spare.issuperset(row.torch_names)], spare, refuse


def _with_other(flax_model: nnx.Module, spare: Sequence[Row]) -> nnx.Module:
    """A copy of the module in which the variables of these rows have other values."""
    other = nnx.clone(flax_model)
    held = variables(other)
    for path in (path for row in spare for path in row.paths):
        own = held[path][...]  # by other numbers each: a softmax does not see a shift
        held[path][...] = own + 1 + np.arange(own.size, dtype=own.dtype).reshape(own.shape)
    return other


def _differ(candidate: NnxSide, moved: NnxSide, inputs: Arrays) -> bool:
    """Whether the outputs differ. Unknown, so False, if the candidate raises an error."""
    try:
        one = candidate.forward(candidate.parameters, inputs, TRUTH)
    except Exception:  # the check raises the same error, and makes a row of it
        return False
    other = moved.forward(moved.parameters, inputs, TRUTH)
    return any(not np.array_equal(one[n], value, equal_nan=True) for n, value in other.items())


def _paired(theirs: Mapping[str, Any], ours: Mapping[str, Any], names: Names) -> dict[str, str]:
    """torch path → Flax path of the submodules that have the same name on both sides."""
    found = {}
    for path in ours:
        name = path
        for flax, torch_name in names.items():
            if path == flax or path.startswith(f"{flax}."):
                first = torch_name if isinstance(torch_name, str) else torch_name[0]  # tied
                name = first + path.removeprefix(flax)
        if name and name in theirs and path:
            found[name] = path
    return {name: found[name] for name in theirs if name in found}
