"""Parameters of a model that a torch optimizer steps in the same way."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flax_bilstm.conversion.algorithms import Settings
from flax_bilstm.conversion.rows import Row
from flax_bilstm.conversion.torch_optimizers import OptimizerState


class Part(NamedTuple):
    """Parameters that are stepped in the same way: rows, settings, and number of steps so far."""

    rows: tuple[Row, ...]
    settings: Settings
    steps: int


def parts_of(
    state: OptimizerState, named: Mapping[str, Any], trained: Sequence[Row]
) -> tuple[Part, ...]:
    """The trained rows by settings and steps, without rows that PyTorch does not step."""
    settings = {key: group.settings for group in state.groups for key in group.keys}
    started = any(state.states.values())
    found: dict[Any, Part] = {}
    for row in trained:
        keys = keys_of(row, named)
        if keys is None:
            continue
        stateful = state.algorithm.kept(settings[keys[0]])
        if started and stateful and not any(state.states.get(key) for key in keys):
            continue
        steps = max((steps_of(state.states.get(key, {})) for key in keys), default=0)
        which = (settings_key(settings[keys[0]]), steps)
        before = found.get(which, Part((), settings[keys[0]], steps))
        found[which] = before._replace(rows=(*before.rows, row))
    return tuple(found.values())


def keys_of(row: Row, named: Mapping[str, Any]) -> list[Any] | None:
    """The keys of a row's tensors (of one of them if tied); None if the optimizer lacks it."""
    one = held(row, named)
    return None if one is None else [named[name] for name in one.torch_names]


def held(row: Row, named: Mapping[str, Any]) -> Row | None:
    """The row, or the first of its tied rows, whose tensors the optimizer has; None if none."""
    rows = row.tied or (row,)
    return next((one for one in rows if all(name in named for name in one.torch_names)), None)


def settings_key(settings: Settings) -> str:
    """A key that is equal for equal settings, whatever their container."""
    names = sorted(settings.keys() - {"initial_lr"})
    return repr([(name, settings[name]) for name in names])


def steps_of(tensors: Mapping[str, np.ndarray]) -> int:
    """The steps taken so far, from the state of one parameter."""
    return int(tensors["step"].reshape(())) if "step" in tensors else 0
