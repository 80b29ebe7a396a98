"""Mistakes that any array can show, whatever computes it: a factor, an axis, an order."""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from itertools import permutations

import numpy as np
import torch

from parity.diagnosis.mistakes.cell import reordered
from parity.diagnosis.mistakes.rounding import SIGNIFICANT_BITS, rounded

Arrays = Mapping[str, np.ndarray]


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
        exact = torch.from_numpy(array.astype(np.float64))
        yield f"it was rounded to {words}", rounded(exact, bits).numpy()
    yield "it is in reverse order", array[::-1]


def _factor(truth: np.ndarray, given: np.ndarray) -> tuple[str, np.ndarray]:
    product = float(np.vdot(truth, truth))
    factor = float(np.vdot(given, truth)) / product if product else 0.0
    if truth.size == 1 and abs(factor - Fraction(factor).limit_denominator(64)) > 1e-9:
        raise ValueError("any two numbers have such a factor")
    if abs(factor - 1) < 1e-9:
        raise ValueError("it is rounding")
    digits = 16 if abs(factor - 1) < 1e-3 else 12  # 12 could write 1
    return f"it is {factor:.{digits}g} times what it should be", factor * truth


def _offset(truth: np.ndarray, given: np.ndarray) -> tuple[str, np.ndarray]:
    if truth.size == 1:
        raise ValueError("any two numbers have such a difference")
    more = np.mean(given - truth)
    return f"it is {more:.6g} more everywhere", truth + more


def _halves(truth: np.ndarray, mix: Callable[..., tuple[np.ndarray, ...]]) -> np.ndarray:
    return np.concatenate(mix(*np.split(truth, 2, axis=-1)), axis=-1)


RELATIONS: tuple[Callable[[np.ndarray, np.ndarray], tuple[str, np.ndarray]], ...] = (
    lambda truth, given: ("it is zero", 0 * truth),
    _factor,
    lambda truth, given: ("its second axis is in reverse order", np.flip(truth, 1)),
    lambda truth, given: ("its second axis is one place late", np.roll(truth, 1, axis=1)),
    lambda truth, given: ("its second axis is one place early", np.roll(truth, -1, axis=1)),
    *(
        lambda truth, given, words=words, mix=mix: (words, _halves(truth, mix))
        for words, mix in {
            "the halves of its last axis are swapped": lambda a, b: (b, a),
            "the first half of its last axis stands in both places": lambda a, b: (a, a),
            "the second half of its last axis stands in both places": lambda a, b: (b, b),
            "both halves of its last axis are their sum": lambda a, b: (a + b, a + b),
            "both halves of its last axis are their mean": lambda a, b: ((a + b) / 2,) * 2,
        }.items()
    ),
    _offset,
)
"""(truth, given) → words, and what `given` would be with that mistake."""
