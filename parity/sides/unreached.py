"""What the inputs do not reach: limits that no value exceeds, comparisons with one result.

A port that lacks such a limit or mask computes the same on them.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parity.sides.side import Arrays
from parity.sides.torch_side import TorchSide
from parity.tolerances import TRUTH

GUARD = 1e-5
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
                yield f" {words} {_words(limit)}", bool(beyond(limit).any())

    return reached


def _words(limit: Any) -> str:
    return "another array" if isinstance(limit, torch.Tensor) else f"{limit:g}"


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
    "nan_to_num": lambda x, *values: [(" of NaN", bool(x.isnan().any()))],
    "remainder": lambda x, by: [(f" of more than {_words(by)}", bool((x.abs() >= by).any()))],
    "embedding_renorm": lambda table, tokens, most, p: [
        (f" of a norm above {most:g}", bool((table[tokens].norm(p, -1) > most).any()))
    ],
    "nll_loss_forward": lambda x, classes, weight, reduction, ignored: [
        (f" of the ignored class {ignored}", bool((classes == ignored).any()))
    ],
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


def _tests(name: str, args: Any, result: Any) -> Iterator[tuple[str, bool]]:
    """What a call of an operator has to reach, in words, and whether it does."""
    if not all(isinstance(arg, torch.Tensor | float | int | None) for arg in args):
        return
    if name in _TESTS:
        for words, reached in _TESTS[name](*args):
            yield name + words, reached
    if name in COMPARISONS:
        other = _words(args[1])
        true, false = COMPARISONS[name]
        yield f"what is {true} {other}", bool(result.any())
        yield f"what is {false} {other}", not bool(result.all())


_OTHERS = (str(Path(str(torch.__file__)).parent), str(Path(__file__).parents[1]))


def _line() -> tuple[str, int]:
    """Where the user's code calls an operator: it may be reached there once of several times."""
    frame = sys._getframe(2)
    while frame.f_back and frame.f_code.co_filename.startswith(_OTHERS):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


class _Watching(TorchDispatchMode):
    """Notes what is reached by any of the calls in a line of the user's code."""

    def __init__(self) -> None:
        super().__init__()
        self.reached: dict[tuple[str, Any], bool] = defaultdict(bool)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = getattr(func, "overloadpacket", func)
        name = packet.__name__.rstrip("_")
        before = [arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in args]
        result = func(*args, **(kwargs or {}))
        if name in _TESTS or name in COMPARISONS:
            with suppress(Exception):  # another form of the operator
                for words, reached in _tests(name, before, result):
                    self.reached[words, _line()] |= reached
        return result


def of_reference(reference: TorchSide, inputs: Arrays) -> list[str]:
    """A note on what these inputs do not reach, if there is anything."""
    watching = _Watching()
    with watching:
        reference.forward(reference.parameters, inputs, TRUTH)
    missed = dict.fromkeys(words for (words, _), reached in watching.reached.items() if not reached)
    return [f"not reached by these inputs, so not compared: {', '.join(missed)}"] if missed else []
