"""How far apart two arrays are, in absolute numbers."""

from collections.abc import Sequence

import numpy as np

from parity.tolerances import TOLERANCES, bound

Value = np.ndarray | None
PIECE = 2**15
"""The number of elements whose distances are computed at once."""


def largest_distance(
    value: np.ndarray, truth: np.ndarray, limit: float = np.inf
) -> tuple[float, tuple[int, ...], int]:
    """Max |value − truth|, its index, and how many are above the limit.

    Computed in pieces that fit in the cache.
    """
    if truth.size == 0:
        return 0.0, (), 0
    values, truths = value.reshape(-1), truth.reshape(-1)
    largest, worst, beyond = -1.0, 0, 0
    for start in range(0, truth.size, PIECE):
        piece = slice(start, start + PIECE)
        difference = distances(values[piece], truths[piece])
        here = int(np.argmax(difference))
        if difference[here] > largest:
            largest, worst = float(difference[here]), start + here
        if difference[here] > limit:
            beyond += int(np.count_nonzero(difference > limit))
    return largest, tuple(int(i) for i in np.unravel_index(worst, truth.shape)), beyond


def distances(value: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """|value − truth|, computed in float64; infinite where either is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.asarray(np.subtract(value.astype(np.float64, copy=False), truth))
    np.abs(difference, out=difference)
    if difference.size and np.isnan(difference.flat[np.argmax(difference)]):  # NaN is the largest
        difference[np.isnan(difference)] = np.inf
    return difference


def magnitude(array: Value) -> float:
    """The largest absolute value of the finite elements; 0 if there are none."""
    if array is None or array.size == 0:
        return 0.0
    largest = magnitude_of_ends(array)
    if np.isfinite(largest):
        return largest
    return float(np.max(np.abs(array), initial=0.0, where=np.isfinite(array)))


def settled_infinities(truth: np.ndarray, runs: Sequence[np.ndarray]) -> np.ndarray:
    """Which elements are infinite, the same infinity in all runs, as where a mask hides them."""
    if np.isfinite(magnitude_of_ends(truth)):
        return np.zeros((), bool)
    return np.logical_and.reduce([np.isinf(truth), *(run == truth for run in runs)])


def magnitude_of_ends(array: np.ndarray) -> float:
    """The largest absolute value, which is not finite if any element is not."""
    if array.size == 0:
        return 0.0
    return max(abs(float(array.max())), abs(float(array.min())))


def without_fill(
    dtype: str, truth: np.ndarray, candidate: np.ndarray, *runs: np.ndarray
) -> list[np.ndarray]:
    """The arrays, with 0 for numbers that would hide all others, such as the −1e9 of a mask.

    Nothing computes them, since the candidate and all runs have them, and they are so large that
    the bound that follows from them would determine none of the others.
    """
    every = [truth, candidate, *runs]
    if not candidate.size:
        return every
    ends = int(candidate.argmax()), int(candidate.argmin())  # without a copy of the array
    largest = max(ends, key=lambda i: abs(candidate.flat[i]))
    if any(run.flat[largest] != candidate.flat[largest] for run in runs):
        return every
    filled = np.logical_and.reduce([run == candidate for run in runs]) & np.isfinite(candidate)
    rest = magnitude(np.where(filled, 0, truth))
    if rest == 0 or bound(dtype, 0.0, magnitude(truth)) <= TOLERANCES[dtype].ceiling * rest:
        return every
    return [np.where(filled, np.zeros_like(array), array) for array in every]
