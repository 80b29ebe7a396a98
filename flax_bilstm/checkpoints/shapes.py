"""Bounds of the numbers that describe a tensor, checked before they are multiplied.

A file may have integers of megabytes and shapes of millions of axes, whose product takes minutes.
"""

import math
from collections.abc import Sequence
from typing import Any

from flax_bilstm.checkpoints.stand_ins import DamagedError

MOST_AXES = 64
"""The same as NumPy's."""

LARGEST = 2**63 - 1


def count_of(shape: Any, *others: Sequence[Any]) -> int:
    """The number of elements of a tensor; `others`: further numbers of it, such as its strides.

    Raises:
        DamagedError: there are too many axes, or the numbers are not from 0 to `LARGEST`.
    """
    for numbers in (shape, *others):
        if not isinstance(numbers, (list, tuple)):
            raise DamagedError(f"a tensor's shape is a {type(numbers).__name__}, expected a list")
        if len(numbers) > MOST_AXES:
            raise DamagedError(f"a tensor has {len(numbers):,} axes, expected at most {MOST_AXES}")
        if not all(type(number) is int and 0 <= number <= LARGEST for number in numbers):
            raise DamagedError(
                "a tensor's offset, sizes or strides are no whole numbers from 0 to 2^63 - 1"
            )
    return math.prod(shape)
