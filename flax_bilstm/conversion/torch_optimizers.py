"""A torch optimizer's state dict, checked as a whole; the optimizers that optax has equals of.

https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.state_dict.html
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from flax_bilstm.conversion.tensors import to_numpy

Settings = Mapping[str, Any]
"""The options of one parameter group: lr, weight_decay and so on."""

Call = tuple[str, dict[str, Any]]
"""The name of an optax function, and its keyword arguments."""


class Algorithm(NamedTuple):
    """One of PyTorch's optimizers.

    Attributes:
        title: its name.
        signature: options that only its parameter groups have, all of them.
        numbers: options that must be finite numbers, or pairs of them.
        moments: torch's name of a tensor in the state → the field of optax's state.
        refused: options that optax computes another way → the value with which they do nothing.
        calls: settings and the learning rate → the optax calls, chained, that step alike.
    """

    title: str
    signature: frozenset[str]
    numbers: tuple[str, ...]
    moments: dict[str, str]
    refused: dict[str, Any]
    calls: Callable[[Settings, Any], list[Call]]


def _adam(settings: Settings, rate: Any) -> list[Call]:
    b1, b2 = map(float, settings["betas"])
    options = {"learning_rate": rate, "b1": b1, "b2": b2, "eps": float(settings["eps"])}
    decay = float(settings["weight_decay"])
    if decay and settings["decoupled_weight_decay"]:
        return [("adamw", {**options, "weight_decay": decay})]
    return [*_decay(settings), ("adam", options)]


def _sgd(settings: Settings, rate: Any) -> list[Call]:
    options = {"learning_rate": rate}
    if settings["momentum"]:
        options["momentum"] = float(settings["momentum"])
    if settings["nesterov"]:
        options["nesterov"] = True
    return [*_decay(settings), ("sgd", options)]


def _rmsprop(settings: Settings, rate: Any) -> list[Call]:
    options = {
        "learning_rate": rate,
        "decay": float(settings["alpha"]),
        "eps": float(settings["eps"]),
        "eps_in_sqrt": False,
    }
    if settings["centered"]:
        options["centered"] = True
    return [*_decay(settings), ("rmsprop", options)]


def _decay(settings: Settings) -> list[Call]:
    """Weight decay as a part of the gradient."""
    decay = float(settings["weight_decay"])
    return [("add_decayed_weights", {"weight_decay": decay})] if decay else []


ALGORITHMS = (
    Algorithm(
        "Adam or AdamW",
        frozenset({"betas", "eps", "amsgrad", "weight_decay"}),
        ("betas", "eps", "weight_decay", "lr"),
        {"exp_avg": "mu", "exp_avg_sq": "nu"},
        {"amsgrad": False, "maximize": False},
        _adam,
    ),
    Algorithm(
        "SGD",
        frozenset({"momentum", "dampening", "nesterov", "weight_decay"}),
        ("momentum", "weight_decay", "lr"),
        {"momentum_buffer": "trace"},
        {"dampening": 0, "maximize": False},
        _sgd,
    ),
    Algorithm(
        "RMSprop",
        frozenset({"alpha", "eps", "centered", "momentum", "weight_decay"}),
        ("alpha", "eps", "weight_decay", "lr"),
        {"square_avg": "nu", "grad_avg": "mu"},
        {"momentum": 0, "maximize": False},
        _rmsprop,
    ),
)


class Group(NamedTuple):
    """One parameter group: its options, its parameters' keys in the state, and their names.

    `names` are None where the optimizer was not given named parameters.
    """

    settings: Settings
    keys: tuple[Any, ...]
    names: tuple[str, ...] | None


class OptimizerState(NamedTuple):
    """A torch optimizer's state. `states` has, by key, the tensors and numbers of a parameter."""

    algorithm: Algorithm
    groups: tuple[Group, ...]
    states: dict[Any, dict[str, np.ndarray]]


def read(optimizer_state_dict: Any) -> OptimizerState:
    """The state, whole and well formed.

    Raises:
        ValueError: it is no optimizer's state dict, or of an optimizer that optax has no equal to.
            The error lists what is wrong.
    """
    groups = _groups(optimizer_state_dict)
    algorithm = _algorithm(groups)
    refuse(_unequal(algorithm, groups))
    states = optimizer_state_dict.get("state")
    if not isinstance(states, Mapping) or not all(isinstance(s, Mapping) for s in states.values()):
        raise ValueError(
            "optimizer: expected a mapping from parameters to what is kept for each under "
            f"'state', got {type(states).__name__}."
        )
    keys = {key for group in groups for key in group.keys}
    try:
        arrays = {
            key: to_numpy({k: v for k, v in states[key].items() if v is not None})
            for key in keys & states.keys()
        }
    except (TypeError, RuntimeError, AttributeError) as error:
        raise ValueError(f"optimizer: expected dense tensors in its state: {error}") from error
    unknown = [repr(key) for key in states if key not in keys]
    refuse([f"unexpected: state for {', '.join(unknown[:8])}, in no group"] if unknown else [])
    return OptimizerState(algorithm, groups, arrays)


def refuse(problems: Any) -> None:
    """Raise one ValueError that lists all problems, if there are any."""
    listed = list(problems)
    if listed:
        more = [f"... and {len(listed) - 40} more"] if len(listed) > 40 else []
        raise ValueError(
            "optimizer: its state cannot be carried over; nothing was.\n  "
            + "\n  ".join([*listed[:40], *more])
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
        keys = group.get("params") if isinstance(group, Mapping) else None
        names = group.get("param_names") if isinstance(group, Mapping) else None
        whole = isinstance(keys, (list, tuple)) and all(isinstance(k, (int, str)) for k in keys)
        named = names is None or (
            isinstance(names, (list, tuple))
            and all(isinstance(name, str) for name in names)
            and len(names) == len(keys or ())
        )
        if not whole or not named or not all(isinstance(key, str) for key in group):
            raise ValueError(
                f"optimizer: expected param_groups[{index}] to be a mapping with 'params', a list "
                "of numbers, and 'param_names', if there, a list of as many names; got another."
            )
        settings = {k: v for k, v in group.items() if k not in ("params", "param_names")}
        found.append(Group(settings, tuple(keys or ()), None if names is None else tuple(names)))
    everything = [key for group in found for key in group.keys]
    if len(set(everything)) < len(everything):
        raise ValueError("optimizer: expected each parameter in one group, got some in several.")
    return tuple(found)


def _algorithm(groups: tuple[Group, ...]) -> Algorithm:
    for algorithm in ALGORITHMS:
        if all(algorithm.signature <= group.settings.keys() for group in groups):
            return algorithm
    raise ValueError(
        "optimizer: expected the state of torch.optim.Adam, AdamW, SGD or RMSprop, got one with "
        f"the options {', '.join(sorted(groups[0].settings))}."
    )


def _unequal(algorithm: Algorithm, groups: tuple[Group, ...]) -> Iterator[str]:
    """Options that are malformed, or that optax computes another way."""
    for index, group in enumerate(groups):
        settings = group.settings
        for name in algorithm.numbers:
            value = settings.get(name)
            if not _numeric(value, pair=name == "betas"):
                yield f"{name} of group {index}: expected finite numbers, got {value!r}"
        for name, harmless in algorithm.refused.items():
            if settings.get(name, harmless) not in (harmless, None):
                yield f"{name}={settings[name]!r} has no equal in optax, expected {harmless!r}"
        recorded = "decoupled_weight_decay" in settings or "betas" not in algorithm.numbers
        if settings.get("weight_decay") and not recorded:
            yield (
                "weight_decay is of Adam or of AdamW, which this version of PyTorch does not "
                f'record: set param_groups[{index}]["decoupled_weight_decay"] to True for AdamW, '
                "to False for Adam"
            )


def _numeric(value: Any, *, pair: bool) -> bool:
    if pair:
        return (
            isinstance(value, (list, tuple))
            and len(value) == 2
            and all(_numeric(v, pair=False) for v in value)
        )
    try:
        return not isinstance(value, (str, bytes)) and math.isfinite(float(value))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
