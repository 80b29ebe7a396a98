"""Which parameter each entry of a torch optimizer's state belongs to, if a checkpoint has both.

The optimizer numbers the whole model's `parameters()`. A state dict has buffers too, and only part
of a larger model may be wanted.
"""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from flax_bilstm.conversion.rows import Row, rows, variables
from flax_bilstm.conversion.torch_optimizers import names_in, read
from flax_bilstm.network import Unused

MOST_CHOICES = 10_000


def in_the_models_names(
    optimizer_state_dict: Mapping[str, Any], renamed: Mapping[str, str | None]
) -> dict[str, Any]:
    """The optimizer's state dict, its `param_names`, if any, renamed to the model's names.

    They are the file's names, or, if the optimizer was created for a submodule, those without its
    prefix.
    """

    def names_of(group: Any) -> Any:
        names = names_in(group)
        known = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
        return names if known else ()

    groups = optimizer_state_dict.get("param_groups")
    if not isinstance(groups, (list, tuple)):
        return dict(optimizer_state_dict)
    prefix = _prefix([name for one in groups for name in names_of(one)], renamed)

    def group(one: Any) -> Any:
        named = [renamed.get(f"{prefix}{n}") or f"(other) {n}" for n in names_of(one)]
        return {**one, "param_names": named} if named else one

    return {**optimizer_state_dict, "param_groups": [group(one) for one in groups]}


def _prefix(names: Sequence[str], file: Collection[str]) -> str:
    """The prefix that `names` lack compared to the file's names, if exactly one prefix fits."""
    if not names or not file or any(name in file for name in names):
        return ""
    found = {name.removesuffix(names[0]) for name in file if name.endswith(f".{names[0]}")}
    fitting = [prefix for prefix in found if all(f"{prefix}{name}" in file for name in names)]
    return fitting[0] if len(fitting) == 1 else ""


def with_names(optimizer_state_dict: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The optimizer's state dict with `names`, in the order of its groups, as its `param_names`.

    Raises:
        ValueError: the number of names is not that of the parameters, or the state is not valid.
    """
    count = sum(len(group.keys) for group in read(optimizer_state_dict).groups)
    groups = optimizer_state_dict["param_groups"]
    if count != len(names):
        raise ValueError(
            f"parameters: expected the name of each of the optimizer's {count} parameters, got "
            f"{len(names)}."
        )
    rest = iter(names)
    named = [{**g, "param_names": list(itertools.islice(rest, len(g["params"])))} for g in groups]
    return {**optimizer_state_dict, "param_groups": named}


def parameter_order(
    module: Any,
    optimizer_state_dict: Mapping[str, Any],
    renamed: Mapping[str, str | None],
    **options: Any,
) -> list[str | None] | None:
    """The model's name of each parameter that the optimizer numbers, None for other models'.

    Args:
        module: the module, loaded.
        optimizer_state_dict: without names, of one parameter group.
        renamed: names in the file, in its order → names in the model, None if not in the model.
        **options: names and ignore, as for `load_state_dict`.

    Returns:
        The names, or None if the state has names or several groups.

    Raises:
        ValueError: the buffers outside the model cannot be told apart from its parameters.
    """
    groups = optimizer_state_dict.get("param_groups")
    if not isinstance(groups, (list, tuple)) or len(groups) != 1:
        return None
    group = groups[0]
    if not isinstance(group, Mapping) or "param_names" in group:
        return None
    keys = group.get("params")
    if not isinstance(keys, (list, tuple)):
        return None
    shapes = _shapes(module, **options)
    buffers = _buffers(module, **options)
    named = (name if name in shapes else None for name in renamed.values())  # None also if ignored
    order = [name for name in named if name not in buffers]
    surplus = len(order) - len(keys)
    outside = [i for i, name in enumerate(order) if name is None]
    if surplus <= 0 or surplus > len(outside):
        return order
    if math.comb(len(outside), surplus) > MOST_CHOICES:
        raise ValueError(_unclear(len(order), len(keys)))
    fitting = {
        tuple(chosen)
        for dropped in map(set, itertools.combinations(outside, surplus))
        for chosen in [[name for i, name in enumerate(order) if i not in dropped]]
        if _fits(chosen, keys, optimizer_state_dict.get("state"), shapes)
    }
    if len(fitting) != 1:
        raise ValueError(_unclear(len(order), len(keys)))
    return list(fitting.pop())


def _unclear(tensors: int, parameters: int) -> str:
    return (
        f"optimizer: its state counts {parameters} parameters and the file has {tensors} tensors; "
        "which of them are buffers cannot be told. Save the optimizer with named_parameters(), or "
        "pass parameters= (flax-bilstm --parameters)."
    )


def _shapes(module: Any, **options: Any) -> dict[str, tuple[int, ...]]:
    found = variables(module)
    return {
        name: tuple(tensor.shape)
        for row in rows(module, **options)
        for name, tensor in zip(row.torch_names, _tensors(row, found), strict=True)
    }


def _tensors(row: Row, found: Mapping[Any, Any]) -> Sequence[np.ndarray]:
    if any(path not in found for path in row.paths):
        return [np.zeros(())]
    return row.to_torch([found[path].get_value() for path in row.paths])


def _buffers(module: Any, **options: Any) -> set[str]:
    """The module's tensors that no optimizer has: statistics, counts, plain buffers."""
    from flax import nnx

    found = variables(module)
    return {
        name
        for row in rows(module, **options)
        if row.default is not None or not isinstance(found[row.paths[0]], (nnx.Param, Unused))
        for name in row.torch_names
    }


def _fits(
    order: Sequence[str | None], keys: Sequence[Any], states: Any, shapes: Mapping[str, Any]
) -> bool:
    """Whether every tensor of the state has the shape of its parameter."""
    if not isinstance(states, Mapping):
        return True
    return all(
        tuple(getattr(value, "shape", ())) in ((), shapes[name])
        for key, name in zip(keys, order, strict=True)
        if name is not None and name in shapes and isinstance(states.get(key), Mapping)
        for value in states[key].values()
    )
