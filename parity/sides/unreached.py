"""What the inputs do not reach: limits that no value exceeds, comparisons with one result.

A port that lacks such a limit or mask computes the same on them.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parity.sides.side import Arrays
from parity.sides.torch_side import TorchSide
from parity.tolerances import TRUTH

GUARD = 1e-3
"""A lower limit between 0 and this one only guards against a division by 0."""


def _sides(low: float | None = None, high: float | None = None) -> Any:
    """The test of an operator (x, limits if they are not given here)."""

    def reached(x: Any, *limits: Any) -> Iterator[tuple[str, bool]]:
        lower, upper = (*limits, None, None)[:2] if low is high is None else (low, high)
        for words, limit, beyond in (
            ("below", lower, lambda of: x < of),
            ("above", upper, lambda of: x > of),
        ):
            is_guard = words == "below" and isinstance(limit, float) and 0 < limit <= GUARD
            if limit is not None and not is_guard:
                yield f" {words} {limit:g}", bool(beyond(limit).any())

    return reached


_ATEN: Any = torch.ops.aten
_ANY_OF = _sides(0.0)
_MASKED: Any = lambda x, mask, value: [(" of anything", bool(mask.any()))]  # noqa: E731
_LARGER: Any = lambda x, other: [  # noqa: E731
    (" with a larger first argument", bool((x > other).any())),
    (" with a larger second argument", bool((x < other).any())),
]
_TESTS: dict[Any, Any] = {
    "clamp": _sides(),
    "clamp_min": _sides(),
    "clamp_max": lambda x, high: _sides()(x, None, high),
    "hardtanh": lambda x, low=-1.0, high=1.0: _sides()(x, low, high),
    "relu": _ANY_OF,
    "leaky_relu": lambda x, slope=0.01: _ANY_OF(x),
    "elu": lambda x, *scales: _ANY_OF(x),
    "threshold": lambda x, limit, value: _sides()(x, limit),
    "hardswish": _sides(-3.0, 3.0),
    "masked_fill": _MASKED,
    "maximum": _LARGER,
    "minimum": _LARGER,
    "where": lambda mask, x, other: [
        (" with a condition that is true", bool(mask.any())),
        (" with a condition that is false", not bool(mask.all())),
    ],
}
"""An operator, in place or not → the test of its arguments: words, and whether they are reached."""
COMPARISONS = {
    "eq": ("=", "≠"), "ne": ("≠", "="), "lt": ("<", "≥"), "le": ("≤", ">"), "gt": (">", "≤"),
    "ge": ("≥", "<"),
}  # fmt: skip
"""An operator → what is true of a number where it is true, and where it is false."""


def _tests(func: Any, args: Any) -> Iterator[tuple[str, bool]]:
    """What a call has to reach, in words, and whether it does."""
    name = func.overloadpacket.__name__.rstrip("_")
    numbers = all(isinstance(arg, torch.Tensor | float | int | None) for arg in args)
    if name in _TESTS and numbers and len(args):
        with suppress(TypeError):  # another form of the operator
            for words, reached in _TESTS[name](*args):
                yield name + words, reached
    if name in COMPARISONS and numbers:
        other = "another array" if isinstance(args[1], torch.Tensor) else f"{args[1]:g}"
        result = func(*args)
        true, false = COMPARISONS[name]
        yield f"what is {true} {other}", bool(result.any())
        yield f"what is {false} {other}", not bool(result.all())


class _Watching(TorchDispatchMode):
    """Notes what is reached by any of the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.reached: dict[str, bool] = defaultdict(bool)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for words, reached in _tests(func, args):
            self.reached[words] |= reached
        return func(*args, **(kwargs or {}))


def of_reference(reference: TorchSide, inputs: Arrays) -> list[str]:
    """A note on what these inputs do not reach, if there is anything."""
    watching = _Watching()
    with watching:
        reference.forward(reference.parameters, inputs, TRUTH)
    missed = [words for words, reached in watching.reached.items() if not reached]
    return [f"not reached by these inputs, so not compared: {', '.join(missed)}"] if missed else []
