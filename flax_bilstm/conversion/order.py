"""Which parameter each entry of a torch optimizer's state is, in a checkpoint with both.

The optimizer counts the whole model's `parameters()`; a state dict has its buffers too, and of a
larger model only some of it may be wanted.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flax_bilstm.conversion.rows import Row, rows, variables
from flax_bilstm.network import Unused

MOST_CHOICES = 10_000


def in_the_models_names(
    optimizer_state_dict: Mapping[str, Any], renamed: Mapping[str, str | None]
) -> dict[str, Any]:
    """The optimizer's state dict with its `param_names`, if any, as the model has them."""

    def group(one: Any) -> Any:
        names = one.get("param_names") if isinstance(one, Mapping) else None
        if not isinstance(names, (list, tuple)):
            return one
        return {**one, "param_names": [renamed.get(name) or f"(other) {name}" for name in names]}

    groups = optimizer_state_dict.get("param_groups")
    if not isinstance(groups, (list, tuple)):
        return dict(optimizer_state_dict)
    return {**optimizer_state_dict, "param_groups": [group(one) for one in groups]}


def parameter_order(
    module: Any,
    optimizer_state_dict: Mapping[str, Any],
    renamed: Mapping[str, str | None],
    **options: Any,
) -> list[str | None] | None:
    """The model's name of each parameter that the optimizer counts, None for others'.

    Args:
        module: the module, loaded.
        optimizer_state_dict: without names, of one parameter group.
        renamed: names in the file, in its order → names in the model, None outside of it.
        **options: names and ignore, as for `load_state_dict`.

    Returns:
        The names, or None where the state tells them itself or has several groups.

    Raises:
        ValueError: the buffers outside of the model cannot be told from its parameters.
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
    named = (name if name in shapes else None for name in renamed.values())  # None: ignored, too
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
        "call fb.optimizer_from_torch with parameters=."
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
    """The module's tensors that no optimizer counts: statistics, counts, plain buffers."""
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
