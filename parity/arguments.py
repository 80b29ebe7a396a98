"""The arguments of `parity.check`, refused in one place if nothing can be checked with them."""

from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import numpy as np

from flax_bilstm.arguments import quoted
from flax_bilstm.conversion import tensors
from parity.sides.losses import LOSSES, SQUARES, Loss
from parity.sides.optimizers import Optimizer
from parity.sides.side import TARGET

MOST_STEPS = 10_000
"""Most steps of training: the batches are all kept, for both sides and every dtype."""

Check = Callable[[Any], bool]


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and int(value) >= 0


def _optimizers(value: Any) -> bool:
    if not isinstance(value, tuple | list) or not all(isinstance(o, Optimizer) for o in value):
        return False
    if not all(callable(o.torch) and hasattr(o.optax, "update") for o in value):
        return False
    return len({optimizer.name for optimizer in value}) == len(value)


def _texts(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(each, str) for each in value)


MEANT: dict[str, tuple[Check, str]] = {
    "loss": (
        lambda value: isinstance(value, Loss),
        "a parity.Loss, as those in parity.losses",
    ),
    "known": (lambda value: isinstance(value or {}, Mapping), "a mapping, a pattern → the reason"),
    "optimizers": (
        _optimizers,
        "a tuple of parity.Optimizer with different names, such as those in parity.optimizers, "
        "each with a function that makes an optimizer of PyTorch, and a transformation of optax",
    ),
    "ignore": (_texts, "a tuple of patterns"),
    "dtypes": (_texts, 'a tuple of words, such as "float32"'),
    "stages": (
        lambda value: value is None or isinstance(value, Mapping),
        "a mapping, torch path → Flax path",
    ),
    "training_steps": (_whole, "a whole number from 0"),
    "seed": (_whole, "a whole number from 0"),
    "progress": (callable, "a function of a line of text"),
}
"""The argument → whether a value can be meant, and what is expected in words."""


def refuse(**given: Any) -> None:
    """Raise TypeError for the first argument of these that cannot be meant."""
    for name, value in given.items():
        meant, words = MEANT[name]
        if not meant(value):
            several = isinstance(value, tuple | list)
            got = f"({', '.join(map(quoted, value[:5]))})" if several else quoted(value)
            raise TypeError(f"{name}: expected {words}, got {got}")


def limit_steps(training_steps: int) -> None:
    """Raise ValueError for more than `MOST_STEPS`."""
    if training_steps > MOST_STEPS:
        raise ValueError(
            f"training_steps: expected at most {MOST_STEPS:,}, each with a batch that is kept, got "
            f"{quoted(training_steps)}"
        )


def arrays(argument: str, given: Any) -> dict[str, np.ndarray]:
    """The arrays of a mapping, of PyTorch and JAX too; empty for None.

    Raises:
        TypeError: it is no mapping.
        ValueError: a value is no array of numbers.
    """
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"{argument}: expected a mapping, a name → an array, got {quoted(given)}")
    return {name: tensors.array_of(f"{argument}: {name}", a) for name, a in (given or {}).items()}


def inputs(positional: Mapping[str, Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """All inputs of the models by name.

    Raises:
        ValueError: two have the same name, or one that of the loss's target.
    """
    twice = [name for name in keywords if name in positional]
    if twice:
        raise ValueError(
            f"keywords: {twice} are also names of inputs by position; give those others: x={{…}}"
        )
    every = {**positional, **keywords}
    wide = [name for name, array in every.items() if array.dtype.kind == "f" and array.itemsize > 8]
    if wide:
        raise ValueError(
            f"x, keywords: expected float64 at most, got longdouble in {wide}: cast it"
        )
    if TARGET in every:
        raise ValueError(
            f"x, keywords: {TARGET!r} is the name of what the loss compares the output with: give "
            "that in targets=, and an input of the models by position under another name"
        )
    return every


def targets(given: Any, inputs: Mapping[str, Any], loss: Loss) -> dict[str, Any]:
    """The inputs of the loss alone by name.

    Raises:
        TypeError: it is no mapping.
        ValueError: a value is no array of numbers, or one has the name of an input of the models,
            or the loss does not read it.
    """
    found = arrays("targets", given)
    twice = [name for name in found if name in inputs]
    if twice:
        raise ValueError(f"targets: {twice} are also names of the models' inputs; expected others")
    unread = [name for name in found if name != TARGET]
    if unread and loss in LOSSES:
        reads = "it reads none" if loss == SQUARES else f"it reads {TARGET!r}"
        raise ValueError(
            f"targets: {loss.name} does not read {unread}: {reads}; give that, or another loss="
        )
    return found
