"""From arrays to rows: the one place where a pass or a failure is decided."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from parity.distance import (
    Value,
    distances,
    largest_distance,
    magnitude,
    settled_infinities,
    without_fill,
)
from parity.place import Place
from parity.results import Row, without_distance
from parity.sides.side import floating, real
from parity.tolerances import (
    ONE_ELEMENT,
    TOLERANCES,
    bound,
    determined,
    epsilon,
    smallest,
)


def judge(
    truth: Value,
    candidate: Value,
    own: Sequence[Value],
    place: Place,
    *,
    spread: float = 0.0,
    elements: bool = True,
) -> Row:
    """Judge the candidate against the truth by the rule of `parity.tolerances`.

    Args:
        truth: the reference in float64.
        candidate: the candidate in the dtype of the place.
        own: the reference in that dtype: the plain run first, then the nudged runs.
        place: what is compared.
        spread: the reference's largest distance so far, for instance in earlier training steps.
        elements: whether the elements of an undetermined array are judged one by one. False in
            training, where an optimizer can turn a sign that only rounding determines into a whole
            step.
    """
    dtype = place.dtype
    broken = _incomparable(truth, candidate, own) or _of_another_kind(truth, candidate)
    if broken is not None:
        return without_distance(place, broken)
    truth, candidate, *own = real(truth, candidate, *own)
    if truth is None or candidate is None:
        return Row(**vars(place), passed=True)  # unused on both sides
    runs = [run for run in own if run is not None]
    if truth.dtype.kind in "biu":
        return _equal(truth, candidate, runs, place)
    infinite = settled_infinities(truth, runs)
    if infinite.any():
        lacking = np.argwhere(infinite & (candidate != truth))
        if len(lacking):
            return _infinity(truth, candidate, lacking, place)
        truth, candidate, *runs = (np.where(infinite, 0, a) for a in (truth, candidate, *runs))
    truth, candidate, *runs = without_fill(dtype, truth, candidate, *runs)
    strayed = [largest_distance(run, truth)[0] for run in runs]
    spread, scale = max([spread, *strayed]), magnitude(truth)
    limit = bound(dtype, spread, scale)
    known = determined(dtype, spread, scale)
    distance, where, beyond = largest_distance(candidate, truth, limit)
    row = Row(
        **vars(place),
        passed=distance <= limit,
        determined=known,
        distance=distance,
        reference_distance=strayed[0],
        spread=spread,
        bound=limit,
        scale=scale,
        epsilon=epsilon(dtype),
    )
    if row.passed and not known:
        wrong = _wrong_elements(truth, candidate, runs, dtype, scale) if elements else None
        if wrong is None:
            row = replace(row, note=_why_undetermined(truth, runs, spread, scale))
        else:
            where, beyond, note = wrong
            row = replace(row, passed=False, note=note)
    if np.isinf(distance) and not row.passed and not row.note:
        row = replace(row, note=_not_finite("the candidate", candidate))
    return _with_elements(row, truth, candidate, where, beyond)


def _infinity(truth: np.ndarray, candidate: np.ndarray, wrong: np.ndarray, place: Place) -> Row:
    """The row of a candidate that lacks infinities, such as those of a mask, at these places."""
    where = tuple(int(i) for i in wrong[0])
    note = f"the truth is {truth[where]} at {list(where)}, and so is every run of the reference"
    row = Row(**vars(place), passed=False, distance=float("inf"), note=note)
    return _with_elements(row, truth, candidate, where, len(wrong))


def _with_elements(
    row: Row, truth: np.ndarray, candidate: np.ndarray, where: tuple[int, ...], beyond: int
) -> Row:
    """The row with how many elements are wrong, and both sides' values at the worst one."""
    if not truth.size:
        return row
    kind = int if truth.dtype.kind in "biu" else float
    values = kind(candidate[where]), kind(truth[where])
    return replace(
        row, size=truth.size, beyond=beyond, where=where, candidate=values[0], truth=values[1]
    )


def doubtful(rows: Sequence[Row], rechecked: float) -> bool:
    """Whether rows fail, but none by more than `rechecked` times its bound."""
    failing = [row for row in rows if not row.passed]
    return bool(failing) and all(row.tightness <= rechecked for row in failing)


def _wrong_elements(
    truth: np.ndarray, candidate: np.ndarray, runs: Sequence[np.ndarray], dtype: str, scale: float
) -> tuple[tuple[int, ...], int, str] | None:
    """Among the elements that the reference determines: the worst, how many are wrong, a note."""
    spread = np.max([distances(run, truth) for run in runs], axis=0)
    distance = distances(candidate, truth)
    row, unit = TOLERANCES[dtype], max(epsilon(dtype) * scale, smallest(dtype))
    allowed = row.k * ONE_ELEMENT * spread
    known = allowed <= max(row.ceiling * scale, row.floor * smallest(dtype))
    wrong = known & (distance > allowed + row.floor * unit)
    if not wrong.any():
        return None
    where = np.unravel_index(int(np.argmax(np.where(wrong, distance, -1))), truth.shape)
    note = (
        f"of the {known.sum()} elements that the reference knows, "
        f"the worst is wrong by {distance[where]:.3g}"
    )
    return tuple(int(i) for i in where), int(wrong.sum()), note


def _why_undetermined(
    truth: np.ndarray, runs: Sequence[np.ndarray], spread: float, scale: float
) -> str:
    """A note on why an array is undetermined."""
    for name, array in (("the truth", truth), *(("the reference", run) for run in runs)):
        if not np.all(np.isfinite(array)):
            return f"undetermined: {_not_finite(name, array)}"
    return (
        "undetermined: only rounding determines it; the reference's own runs differ by "
        f"{spread:.2g} where the largest element is {scale:.2g}"
    )


def _equal(
    truth: np.ndarray, candidate: np.ndarray, runs: Sequence[np.ndarray], place: Place
) -> Row:
    """The row of integers or booleans, which must be equal."""
    known = np.all([run == truth for run in runs], axis=0)
    unequal = np.argwhere((candidate != truth) & known)
    unsure = int(known.size - known.sum())
    note = f"the reference's own runs disagree on {unsure} of {known.size} elements"
    row = Row(**vars(place), passed=True, determined=not unsure, note=note if unsure else "")
    if not len(unequal):
        return row
    where = tuple(int(i) for i in unequal[0])
    note = "whole numbers and booleans must be equal"
    row = replace(row, passed=False, distance=float("inf"), note=note)
    return _with_elements(row, truth, candidate, where, len(unequal))


def identical(reference: Value, candidate: Value, place: Place, note: str) -> Row:
    """The row of a candidate that must be equal to the reference to the last bit.

    The dtypes must be equal too, except those of whole numbers: a parameter that one side widened
    would be trained differently.
    `note` is the failing row's note.
    """
    reference, candidate = real(reference, candidate)
    broken = _incomparable(reference, candidate, ()) or _infinite(reference, candidate)
    if broken is not None:
        return without_distance(place, broken)
    if reference is None or candidate is None:
        return Row(**vars(place), passed=True)
    whole = reference.dtype.kind in "iu" and candidate.dtype.kind in "iu"  # JAX has int32 for int64
    if reference.dtype != candidate.dtype and not whole:
        return without_distance(
            place, f"{note}: the reference is {reference.dtype}, the candidate {candidate.dtype}"
        )
    distance, where, _ = largest_distance(candidate, reference.astype(np.float64))
    bits = (lambda array: array) if whole else _bits  # −0.0 is not 0.0
    unequal = np.argwhere(bits(reference) != bits(candidate))
    if distance == 0 and len(unequal):
        where = tuple(int(i) for i in unequal[0])
        note = f"{note}: only the sign of zero, 0.0 or −0.0"
    row = Row(
        **vars(place),
        passed=not len(unequal),
        distance=distance,
        scale=magnitude(reference),
        note=note if len(unequal) else "",
    )
    return _with_elements(row, reference, candidate, where, len(unequal))


def _bits(array: np.ndarray) -> np.ndarray:
    """The elements as unsigned integers of their size."""
    return array.view(f"u{array.dtype.itemsize}")


NEVER_TRAINED = (
    "the reference never trains it, which is frozen there, or unused, maybe only by these "
    "inputs, and has None; the candidate has an array: weight decay would move it; give "
    "inputs that use it, make it another type than nnx.Param, or say known="
)


def _incomparable(truth: Value, candidate: Value, own: Sequence[Value]) -> str | None:
    """A note on why no distance can be computed; None if one can."""
    sides = [("the truth", truth), ("the candidate", candidate)]
    sides += [("the reference" if i == 0 else "a nudged reference", o) for i, o in enumerate(own)]
    if truth is None and candidate is not None and not any(o is not None for o in own):
        return NEVER_TRAINED
    absent = [side for side, array in sides if array is None]
    if absent and len(absent) < len(sides):
        return (
            f"{' and '.join(absent)} has None, as of what is never used, or frozen; the others "
            "have an array"
        )
    if truth is not None:
        for side, array in sides:
            if array is not None and array.shape != truth.shape:
                return f"{side} has shape {array.shape}, the truth {truth.shape}"
    return None


def _of_another_kind(truth: Value, candidate: Value) -> str | None:
    """A note if one has real numbers and the other booleans, for instance; else None."""
    if truth is None or candidate is None or _kind(truth) == _kind(candidate):
        return None
    return f"the candidate has {_kind(candidate)}, the truth {_kind(truth)}"


def _kind(array: np.ndarray) -> str:
    """What an array holds, in words. Widths are not compared: JAX has int32 for int64."""
    if floating(array):
        return "real numbers"
    return {"b": "booleans", "c": "complex numbers"}.get(array.dtype.kind, "whole numbers")


def _infinite(reference: Value, candidate: Value) -> str | None:
    """A note on which side is no number, or infinite where the other is not; None if neither is."""
    if reference is None or candidate is None:
        return None
    alike = np.isinf(reference) & (reference == candidate)
    for side, array in (("the reference", reference), ("the candidate", candidate)):
        if not np.all(np.isfinite(array) | alike):
            return _not_finite(side, array)
    return None


def _not_finite(side: str, array: np.ndarray) -> str:
    return f"{side} {not_finite(array)}"


def not_finite(array: np.ndarray) -> str:
    """What of an array is not finite, in words."""
    bad = np.argwhere(~np.isfinite(array))
    return f"has {len(bad)} non-finite elements, the first at {bad[0].tolist()}"
