"""Mistakes in sums, products and quotients: an operand is left out."""

from typing import Any

import torch
from torch import Tensor

from parity.diagnosis.mistakes.calls import Calls, Mistakes

SUMS = ("add", "add_", "__add__", "__radd__", "__iadd__")
MULTIPLICATIONS = ("mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__")
DIVISIONS = ("div", "div_", "divide", "true_divide", "__truediv__", "__itruediv__")


def of_operands() -> Mistakes:
    """What can be left out of a sum, a product or a quotient."""
    for words, names, kept in (
        ("the first term of a sum is missing", SUMS, 1),
        ("the second term of a sum is missing", SUMS, 0),
        ("the first factor of a product is missing", MULTIPLICATIONS, 1),
        ("the second factor of a product is missing", MULTIPLICATIONS, 0),
        ("a division is missing", DIVISIONS, 0),
    ):
        yield words, Calls(names, lambda c, f, a, k, n=kept: _only(a, n))


def _only(args: Any, kept: int) -> Tensor:
    """One of two operands, if it has the shape of what they give together."""
    one, other = args[kept], args[1 - kept]
    shape = other.shape if isinstance(other, Tensor) else ()
    if not isinstance(one, Tensor) or torch.broadcast_shapes(one.shape, shape) != one.shape:
        raise ValueError("it has another shape")
    return one
