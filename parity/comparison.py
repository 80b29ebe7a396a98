"""From arrays to rows: the one place where a pass or a failure is decided."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from parity.report import Row
from parity.tolerances import bound, epsilon, undetermined

Value = np.ndarray | None


def judge(
    truth: Value,
    candidate: Value,
    own: Sequence[Value],
    *,
    dtype: str,
    spread: float = 0.0,
    largest: float = 0.0,
    **place: Any,
) -> Row:
    """The candidate against the truth, by the rule of `parity.tolerances`.

    Args:
        truth: the reference in float64.
        candidate: the candidate in `dtype`.
        own: the reference in `dtype`: its plain run first, then its nudged ones.
        dtype: what the candidate and `own` were computed in.
        spread: what the reference's runs have strayed by already, in training for instance.
        largest: the largest element of all arrays of the check, for what is cancellation alone.
        **place: the row's case, check, name and step.
    """
    place["dtype"] = dtype
    broken = _incomparable(truth, candidate, own)
    if broken is not None:
        return Row(passed=False, distance=float("nan"), note=broken, **place)
    if truth is None or candidate is None:
        return Row(passed=True, **place)  # never used, on every side
    distance, where = _distance(candidate, truth)
    strayed = [_distance(run, truth)[0] for run in own if run is not None]
    spread = max([spread, *strayed])
    scale = magnitude(truth)
    if undetermined(dtype, spread, scale):
        scale = max(scale, largest)
    limit = bound(dtype, spread, scale)
    return Row(
        passed=distance <= limit,
        distance=distance,
        reference_distance=strayed[0],
        spread=spread,
        bound=limit,
        scale=scale,
        epsilon=epsilon(dtype),
        where=where,
        **place,
    )


def identical(reference: Value, candidate: Value, *, note: str, **place: Any) -> Row:
    """The candidate against the reference where both must be equal to the last bit.

    Equal in dtype, too: in training, a parameter that one side widened would go on otherwise.

    `note` says what is wrong where they are not, for the failing row.
    """
    broken = _incomparable(reference, candidate, ())
    if broken is not None:
        return Row(passed=False, distance=float("nan"), note=broken, **place)
    if reference is None or candidate is None:
        return Row(passed=True, **place)
    if reference.dtype != candidate.dtype:
        broken = f"{note}: the reference is {reference.dtype}, the candidate {candidate.dtype}"
        return Row(passed=False, distance=float("nan"), note=broken, **place)
    distance, where = _distance(candidate, reference.astype(np.float64))
    unequal = np.argwhere(_bits(reference) != _bits(candidate))  # also 0.0 and -0.0
    if distance == 0 and len(unequal):
        where = tuple(int(i) for i in unequal[0])
    return Row(
        passed=not len(unequal),
        distance=distance,
        scale=magnitude(reference),
        where=where,
        note=f"{note}: {distance:.3g} at {list(where)}" if len(unequal) else "",
        **place,
    )


def _bits(array: np.ndarray) -> np.ndarray:
    """The elements as unsigned integers of their size."""
    return array.view(f"u{array.dtype.itemsize}")


def magnitude(array: Value) -> float:
    """The largest absolute element; 0 where there is none."""
    return 0.0 if array is None else float(np.max(np.abs(array), initial=0.0))


def _incomparable(truth: Value, candidate: Value, own: Sequence[Value]) -> str | None:
    """Why no distance can be taken, in words; None where one can."""
    sides = [("the truth", truth), ("the candidate", candidate)]
    sides += [("the reference" if i == 0 else "a nudged reference", o) for i, o in enumerate(own)]
    for side, array in sides:
        if array is not None and not np.all(np.isfinite(array)):
            bad = np.argwhere(~np.isfinite(array))
            return f"{side} has {len(bad)} non-finite elements, the first at {bad[0].tolist()}"
    if truth is None and candidate is not None and not any(o is not None for o in own):
        return (
            "the reference never uses it and has None, the candidate has an array: it trains it, "
            "and weight decay would move it"
        )
    absent = [side for side, array in sides if array is None]
    if absent and len(absent) < len(sides):
        return f"{' and '.join(absent)} has None (never used), the others an array"
    if truth is not None:
        for side, array in sides:
            if array is not None and array.shape != truth.shape:
                return f"{side} has shape {array.shape}, the truth {truth.shape}"
    return None


def _distance(value: np.ndarray, truth: np.ndarray) -> tuple[float, tuple[int, ...]]:
    """Max |value − truth|, taken in float64, and where."""
    if truth.size == 0:
        return 0.0, ()
    difference = np.abs(value.astype(np.float64) - truth)
    worst = int(np.argmax(difference))
    where = tuple(int(i) for i in np.unravel_index(worst, difference.shape))
    return float(difference.flat[worst]), where
