"""Checking and reading a torch optimizer's state dict.

https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.state_dict.html
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from flax_bilstm.arguments import quoted
from flax_bilstm.conversion.algorithms import (
    ALGORITHMS,
    FLAG,
    NUMBER,
    OPTIONAL,
    PAIR,
    Algorithm,
    Settings,
)
from flax_bilstm.conversion.fit import shortened
from flax_bilstm.conversion.tensors import array_of
from flax_bilstm.showing import listed, shown


class Group(NamedTuple):
    """One parameter group: its options, its parameters' keys in the state, and their names.

    `names` is None if the optimizer was not created with named parameters. Their names may be the
    keys too, as those of torch.distributed are.
    """

    settings: Settings
    keys: tuple[Any, ...]
    names: tuple[str, ...] | None


class OptimizerState(NamedTuple):
    """A torch optimizer's state. `states`: key of a parameter → its tensors and numbers by name."""

    algorithm: Algorithm
    groups: tuple[Group, ...]
    states: dict[Any, dict[str, np.ndarray]]


def read(optimizer_state_dict: Any) -> OptimizerState:
    """The state, complete and checked.

    Raises:
        ValueError: it is not an optimizer's state dict, or optax cannot reproduce the optimizer.
            The error lists everything that is wrong.
    """
    groups = _groups(optimizer_state_dict)
    algorithm = _algorithm(groups)
    refuse(_malformed(algorithm, groups))
    groups = tuple(g._replace(settings=_settings(algorithm, g.settings)) for g in groups)
    refuse(_unequal(algorithm, groups))
    return OptimizerState(algorithm, groups, _states(optimizer_state_dict, groups))


def _states(
    state_dict: Mapping[str, Any], groups: tuple[Group, ...]
) -> dict[Any, dict[str, np.ndarray]]:
    states = state_dict.get("state")
    if not isinstance(states, Mapping) or not all(isinstance(s, Mapping) for s in states.values()):
        raise ValueError(
            "optimizer: expected a mapping from parameters to what is kept for each under "
            f"'state', got {type(states).__name__}."
        )
    keys = {key for group in groups for key in group.keys}
    wrong = [
        f"unexpected: state for {shown(key)}, in no group" for key in states if key not in keys
    ]
    arrays: dict[Any, dict[str, np.ndarray]] = {}
    for key in keys & states.keys():
        arrays[key] = {}
        for name, value in states[key].items():
            array = None if value is None else _numbers(value)
            if array is not None:
                arrays[key][str(name)] = array
            elif value is not None:
                wrong.append(
                    f"{shown(name)} of parameter {shown(key)}: expected a dense tensor of real "
                    f"numbers, got {type(value).__name__}"
                )
        step = arrays[key].get("step", np.zeros(()))
        if step.size != 1 or not _counts(float(step.reshape(()))):
            wrong.append(
                f"step of parameter {shown(key)}: expected a whole number from 0 to 2³¹, got "
                f"{step.reshape(()) if step.size == 1 else f'an array of shape {step.shape}'}"
            )
    refuse(wrong)
    return arrays


def _counts(step: float) -> bool:
    return 0 <= step < 2**31 and step == int(step)


def refuse(problems: Any) -> None:
    """Raise one ValueError that lists all problems, if there are any."""
    listed = list(problems)
    if listed:
        raise ValueError(
            "optimizer: its state cannot be carried over; nothing was changed.\n  "
            + "\n  ".join(shortened(listed))
        )


def _groups(state_dict: Any) -> tuple[Group, ...]:
    if not isinstance(state_dict, Mapping):
        raise ValueError(
            "optimizer: expected the state dict of a torch optimizer, got "
            f"{type(state_dict).__name__}; pass optimizer.state_dict()."
        )
    groups = state_dict.get("param_groups")
    if not isinstance(groups, (list, tuple)) or not groups:
        count = len(groups) if isinstance(groups, (list, tuple)) else 0
        raise ValueError(
            "optimizer: expected the state dict of an optimizer with at least 1 parameter group, "
            f"got {count}."
        )
    found = []
    for index, group in enumerate(groups):
        keys: Any = group.get("params") if isinstance(group, Mapping) else None
        names = names_in(group)
        if (
            not _all(keys, (int, str))
            or not (names is None or (_all(names, str) and len(names) == len(keys)))
            or not all(isinstance(key, str) for key in group)
        ):
            raise ValueError(
                f"optimizer: expected param_groups[{index}] to be a mapping with 'params', a list "
                "of numbers, and 'param_names', if there, a list of as many names; got another."
            )
        settings = {k: v for k, v in group.items() if k not in ("params", "param_names")}
        found.append(Group(settings, tuple(keys), None if names is None else tuple(names)))
    everything = [key for group in found for key in group.keys]
    if len(set(everything)) < len(everything):
        raise ValueError("optimizer: expected each parameter in one group, got some in several.")
    return tuple(found)


def names_in(group: Any) -> Any:
    """The names of a group's parameters, not checked; None if it has none."""
    if not isinstance(group, Mapping):
        return None
    keys = group.get("params")
    return group.get("param_names", keys if _all(keys, str) and keys else None)


def _all(items: Any, kind: Any) -> bool:
    return isinstance(items, (list, tuple)) and all(isinstance(item, kind) for item in items)


def _algorithm(groups: tuple[Group, ...]) -> Algorithm:
    for algorithm in ALGORITHMS:
        if all(algorithm.options.keys() <= group.settings.keys() for group in groups):
            return algorithm
    raise ValueError(
        "optimizer: expected the state of torch.optim.Adam, AdamW, SGD, RMSprop or Adadelta, "
        f"got one with the options {listed(list(map(shown, sorted(groups[0].settings))))}."
    )


def _malformed(algorithm: Algorithm, groups: tuple[Group, ...]) -> Iterator[str]:
    """Options whose values are not valid."""
    for index, group in enumerate(groups):
        for name, kind in {**algorithm.options, **OPTIONAL}.items():
            value = group.settings.get(name)
            missing = value is None and name in OPTIONAL
            if not missing and READERS[kind](value) is None:
                yield f"{name} of group {index}: expected {kind}, got {quoted(value)}"


def _settings(algorithm: Algorithm, settings: Settings) -> Settings:
    """The options that the steps depend on, as Python numbers."""
    return {
        name: READERS[kind](settings[name])
        for name, kind in {**algorithm.options, **OPTIONAL}.items()
        if settings.get(name) is not None
    }


def _unequal(algorithm: Algorithm, groups: tuple[Group, ...]) -> Iterator[str]:
    """Options that optax computes differently."""
    for index, group in enumerate(groups):
        settings = group.settings
        for name, harmless in algorithm.refused.items():
            if settings.get(name, harmless) != harmless:
                yield f"{name}={settings[name]!r} has no equivalent in optax, expected {harmless!r}"
        recorded = "decoupled_weight_decay" in settings or "betas" not in algorithm.options
        if settings.get("weight_decay") and not recorded:
            yield (
                "weight_decay can be Adam's or AdamW's, and this version of PyTorch does not "
                f'record which: set param_groups[{index}]["decoupled_weight_decay"] to True for '
                "AdamW, to False for Adam"
            )


def _numbers(value: Any) -> np.ndarray | None:
    """A dense array of real numbers; None for anything else."""
    try:
        array = array_of("", value)
    except ValueError:
        return None
    return array if jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.kind in "iu" else None


def _number(value: Any) -> float | None:
    array = _numbers(value)
    if array is None or array.size != 1:
        return None
    number = float(array.reshape(()))
    return number if math.isfinite(number) and number >= 0 else None


def _pair(value: Any) -> tuple[float, float] | None:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return None
    first, second = map(_number, value)
    if first is None or second is None or max(first, second) >= 1:
        return None
    return first, second


def _flag(value: Any) -> bool | None:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    number = _number(value)
    return bool(number) if number in (0, 1) else None


READERS: dict[str, Callable[[Any], Any]] = {NUMBER: _number, PAIR: _pair, FLAG: _flag}
