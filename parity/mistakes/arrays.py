"""Mistakes that show in any array, whatever computes it: a factor, an axis, an order, precision."""

from collections.abc import Callable, Iterator, Mapping
from itertools import permutations

import numpy as np

from parity.mistakes.cell import reordered

Arrays = Mapping[str, np.ndarray]

SIGNIFICANT_BITS = {"bfloat16": 8, "TF32, or float16": 11, "float32": 24}
"""Bits of a significand, the leading one included."""


def rounded(array: np.ndarray, bits: int) -> np.ndarray:
    """The array rounded to so many significant bits, to nearest even; exponents are not limited."""
    significand, exponent = np.frexp(array)
    return np.ldexp(np.round(np.ldexp(significand, bits)), exponent - bits)


def _gates(array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    if array.ndim == 0 or len(array) % 4:
        return
    parts = np.split(array, 4)
    for order in permutations(range(4)):
        if order != (0, 1, 2, 3):
            yield reordered(order), np.concatenate([parts[i] for i in order])
    if array.ndim == 2 and parts[0].shape[0] == parts[0].shape[1]:
        turned = np.concatenate([part.T for part in parts])
        yield "each gate's block is transposed", turned


def of_parameter(name: str, reference: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """What a parameter may hold instead of the reference's: (words, array), to the last bit."""
    array = reference[name]
    yield from _gates(array)
    if array.ndim == 2 and array.shape[0] == array.shape[1]:
        yield "it is transposed", array.T
    for factor, words in ((0, "it is zero"), (-1, "its sign is turned"), (2, "it is doubled")):
        yield words, factor * array
    for other, held in reference.items():
        if other != name and held.shape == array.shape:
            yield f"it holds {other}", held
    for mine, other in (("bias_ih", "bias_hh"), ("bias_hh", "bias_ih")):
        twin = name.replace(mine, other)
        if mine in name and twin in reference:
            yield (
                f"it holds the sum of both biases: {other} is folded into it",
                (array + reference[twin]),
            )
    for words, bits in SIGNIFICANT_BITS.items():
        yield f"it was rounded to {words}", rounded(array, bits)
    yield "it is in reverse order", array[::-1]


def _factor(truth: np.ndarray, given: np.ndarray) -> tuple[str, np.ndarray]:
    product = float(np.vdot(truth, truth))
    factor = float(np.vdot(given, truth)) / product if product else 0.0
    return f"it is {factor:.12g} times what it should be", factor * truth


RELATIONS: tuple[Callable[[np.ndarray, np.ndarray], tuple[str, np.ndarray]], ...] = (
    lambda truth, given: ("it is zero", 0 * truth),
    _factor,
    lambda truth, given: ("its second axis is in reverse order", np.flip(truth, 1)),
    lambda truth, given: ("its second axis is one place late", np.roll(truth, 1, axis=1)),
    lambda truth, given: ("its second axis is one place early", np.roll(truth, -1, axis=1)),
    lambda truth, given: ("it is transposed", truth.T),
    lambda truth, given: (
        f"it is {np.mean(given - truth):.6g} more everywhere",
        truth + np.mean(given - truth),
    ),
)
"""(truth, given) → words, and the array that given would then be."""


def precision(error: float) -> str:
    """The precision that a relative error of this size belongs to, in words; "" for another size.

    Rounding errors are around 2^−bits of the scale: half of it for one rounding, more for sums.
    """
    for words, bits in SIGNIFICANT_BITS.items():
        if error and bits - 1.5 <= -np.log2(error) <= bits + 2.5:
            return f"the error is 2^−{-np.log2(error):.0f} of the scale: as if computed in {words}"
    return ""
