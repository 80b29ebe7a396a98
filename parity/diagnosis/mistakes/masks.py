"""Mistakes in masks, whichever function puts them on."""

from typing import Any

from torch import Tensor

from parity.diagnosis.mistakes.calls import Calls, Mistakes

FILLS = ("masked_fill", "masked_fill_", "where")


def of_masks() -> Mistakes:
    """What can be wrong in a mask."""
    yield "the mask is missing", Calls(FILLS, _without)
    yield "the mask is inverted", Calls(FILLS, _inverted)


def _without(state: Calls, func: Any, args: Any, kwargs: Any) -> Any:
    """What a mask is put on."""
    if func.__name__ != "where":
        return args[0]
    branches = [b for b in args[1:] if isinstance(b, Tensor) and b.ndim]
    if len(branches) != 1:
        raise ValueError("it is no mask")
    return branches[0]


def _inverted(state: Calls, func: Any, args: Any, kwargs: Any) -> Any:
    """The same call with a mask that is true where theirs is false."""
    at = 0 if func.__name__ == "where" else 1
    return func(*args[:at], ~args[at], *args[at + 1 :], **kwargs)
