"""Mistakes in masks, and in products and quotients of arrays."""

from typing import Any

import torch
from torch import Tensor

from parity.diagnosis.mistakes.calls import Calls, Mistakes

FILLS = ("masked_fill", "masked_fill_", "where")
PRODUCTS = ("mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__")
QUOTIENTS = ("div", "div_", "divide", "true_divide", "__truediv__", "__itruediv__")
SUMS = ("add", "add_", "__add__", "__radd__", "__iadd__")


def of_masks() -> Mistakes:
    """What can be wrong in a mask, a sum, a product or a quotient."""
    yield "the mask is missing", Calls(FILLS, _without)
    yield "the mask is inverted", Calls(FILLS, _inverted)
    for words, names, kept in (
        ("the first term of a sum is missing", SUMS, 1),
        ("the second term of a sum is missing", SUMS, 0),
        ("the first factor of a product is missing", PRODUCTS, 1),
        ("the second factor of a product is missing", PRODUCTS, 0),
        ("a division is missing", QUOTIENTS, 0),
    ):
        yield words, Calls(names, lambda c, f, a, k, n=kept: _only(a, n))


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


def _only(args: Any, kept: int) -> Tensor:
    """One of two operands, if it has the shape of what they give together."""
    one, other = args[kept], args[1 - kept]
    shape = other.shape if isinstance(other, Tensor) else ()
    if not isinstance(one, Tensor) or torch.broadcast_shapes(one.shape, shape) != one.shape:
        raise ValueError("it has another shape")
    return one
