"""What does not fit between a torch optimizer's state and a model, in words."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from flax_bilstm.conversion.optimizer_parts import Part, held, settings_key, steps_of
from flax_bilstm.conversion.rows import Row, rows, variables
from flax_bilstm.conversion.torch_optimizers import OptimizerState
from flax_bilstm.conversion.tree import dotted


def problems(
    model: nnx.Module,
    state: OptimizerState,
    named: Mapping[str, Any],
    trained: Sequence[Row],
    parts: Sequence[Part],
) -> Iterator[str]:
    """Everything that does not fit between the state and this model."""
    found = variables(model)
    yield from _divided(state, named, trained)
    for part in parts:
        for row in part.rows:
            one = held(row, named) or row
            stateful = any(state.states.get(named[name]) for name in one.torch_names)
            moments = tuple(state.algorithm.kept(part.settings)) if stateful else ()
            if moments and not _moves(one, [found[path].shape for path in row.paths]):
                yield (
                    f"{', '.join(one.torch_names)}: its moments are not those of "
                    f"{dotted(row.paths[0])} in another order, so they cannot be carried over"
                )
                continue
            weights = one.to_torch([found[path].get_value() for path in row.paths])
            for name, weight in zip(one.torch_names, weights, strict=True):
                yield from _of_tensor(name, weight, state.states.get(named[name], {}), moments)
    ours = {name for row in trained for name in row.torch_names}
    theirs = {name for row in rows(model) for name in row.torch_names} - ours
    for name in sorted(theirs & named.keys()):
        if state.states.get(named[name]):
            yield f"unexpected: state for {name}, which this model never trains"
    for name, key in named.items():
        if unknown := state.states.get(key, {}).keys() - {"step", *state.algorithm.moments}:
            yield f"unexpected: {', '.join(sorted(unknown))} of {name}"
    if not parts:
        yield "it updates no parameter of the model"


def _divided(
    state: OptimizerState, named: Mapping[str, Any], trained: Sequence[Row]
) -> Iterator[str]:
    """Variables of several tensors, such as stacked layers, that PyTorch steps differently."""
    settings = {key: settings_key(group.settings) for group in state.groups for key in group.keys}
    for row in trained:
        for one in row.tied or (row,):
            keys = [named.get(name) for name in one.torch_names]
            inside = [key for key in keys if key is not None]
            steps = {steps_of(state.states.get(key, {})) for key in inside}
            alike = len(inside) == len(keys) and len({settings[k] for k in inside} | steps) <= 2
            if inside and not alike:
                yield (
                    f"{', '.join(one.torch_names[:4])}: {dotted(row.paths[0])} is one variable for "
                    "all of them, expected one parameter group and as many steps for each"
                )


def _moves(row: Row, shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether the variables are a permutation of the tensors' elements, as moments require."""
    sizes = np.cumsum([0, *map(math.prod, shapes)])
    leaves = [
        np.arange(start, stop, dtype=np.float64).reshape(shape)
        for start, stop, shape in zip(sizes, sizes[1:], shapes, strict=False)
    ]
    elements = np.concatenate([tensor.ravel() for tensor in row.to_torch(leaves)])
    return np.array_equal(np.sort(elements), np.arange(sizes[-1]))


def _of_tensor(
    name: str, weight: np.ndarray, tensors: Mapping[str, np.ndarray], moments: Sequence[str]
) -> Iterator[str]:
    for moment in moments:
        value = tensors.get(moment)
        if value is None:
            yield f"missing: {moment} of {name}"
        elif value.shape != weight.shape or not jnp.issubdtype(value.dtype, jnp.floating):
            yield (
                f"{moment} of {name}: expected {weight.shape} {weight.dtype}, got "
                f"{value.shape} {value.dtype}"
            )
        elif not np.isfinite(value).all():
            yield f"not finite: {moment} of {name}"
