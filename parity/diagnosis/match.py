"""What is wrong at a wrong stage: the known mistake that reproduces the candidate's numbers.

A mistake is named only if the reference with that mistake agrees with the candidate as closely as a
right candidate agrees with the reference, by the bounds of `parity.tolerances`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from parity.diagnosis import relations
from parity.diagnosis.mistakes import arrays, functions
from parity.diagnosis.mistakes.update import of_update as mistaken_updates
from parity.diagnosis.stages import Alone, run
from parity.distance import Value, magnitude, without_fill
from parity.judge import Judged
from parity.results import Row
from parity.sides import fresh
from parity.sides.optimizers import Optimizer
from parity.sides.recurrent import STATES
from parity.sides.side import Arrays, Gradients, Later, Pair
from parity.tolerances import TRUTH, bound, determined, epsilon

NEARER = 4
"""How many times nearer a mistake must be to the candidate than the truth is, to explain it."""
UNKNOWN = "no known mistake explains it"
"""The note when no known mistake reproduces the candidate's numbers."""
Match = tuple[float, str, str]
"""Distance in ULP, words, and the part of the stage that the mistake points at."""
UNFIT = (ValueError, RuntimeError, IndexError, TypeError, AttributeError, KeyError)
"""What a mistake raises if it does not apply to arrays of these sizes."""


def of_lstm_stage(found: Alone) -> tuple[str, str]:
    """What is wrong in a stage of an LSTM, and in which part; "" if it is unknown."""
    return _closest(_mistakes(found))


@relations.OVERFLOWING
def of_module_stage(
    row: Row, judged: Judged, pair: Any, run: Any, values: Arrays, inputs: Arrays
) -> str:
    """What is wrong at a stage of any network.

    Args:
        row: the first row that fails.
        judged: all rows, of stages computed from the reference's values.
        pair: both sides.
        run: the function that was run, (side, dtype) → arrays by name.
        values: the reference's stages.
        inputs: those of the models.
    """
    parameters = pair.reference.parameters
    failing = [r for r in judged.rows if r.failed and np.isfinite(r.distance)]
    if row.name not in {r.name for r in failing}:
        return ""
    known = [r for r in judged.rows if np.isfinite(r.distance)]
    rows = {r.name: r for r in known}
    alike = [r.name for r in known] if row.check == "gradients" else [row.name]
    given = {name: judged.candidate[name] for name in alike}
    if relations.any_complex(*given.values()):
        return ""

    other = fresh.moved(pair).reference  # where a scale of 1, for instance, shows
    right = Later(lambda: other.forward(other.parameters, inputs, TRUTH))

    def matches() -> Iterator[Match]:
        for words, calls in functions.of_stage(pair.torch_model, _longest(values)):
            try:
                with calls:
                    made = run(pair.reference, TRUTH)
                mistaken = {name: made.get(name) for name in alike}
                distance = _distance(mistaken, given, row.dtype, rows)
                if row.check == "gradients" and np.isfinite(distance):
                    with calls:
                        changed = other.forward(other.parameters, inputs, TRUTH)
                    distance = max(distance, _distance(right, changed, TRUTH, {}))
            except UNFIT:
                continue
            yield distance, words, ""

    words, _ = _closest(matches())
    return (
        words
        or relations.of_stage(row, given[row.name], values)
        or relations.of_arrays(judged, parameters)
    )


def _longest(values: Arrays) -> int:
    """The most time steps that any stage has."""
    timed = (
        array
        for name, array in values.items()
        if array.ndim == 3 and name.rpartition(".")[2] not in STATES
    )
    return max((array.shape[1] for array in timed), default=0)


def of_parameter(name: str, theirs: Arrays, ours: Arrays) -> str:
    """What the candidate holds instead of the reference's parameter."""
    if name not in theirs or name not in ours:
        return ""
    given = ours[name]
    if np.array_equal(given, theirs[name]):  # they differ in dtype, or in the signs of zeros
        return ""
    for words, array in arrays.of_parameter(name, theirs):
        if np.array_equal(array.astype(given.dtype), given):
            return words
    return ""


def of_update(
    failing: Row, pair: Pair, optimizer: Optimizer, gradients: Sequence[Gradients]
) -> str:
    """What is wrong with the candidate's optimizer, judged by all steps on these gradients."""
    start = pair.reference.parameters
    made = pair.candidate.update(start, gradients, optimizer, failing.dtype)
    steps = [step.kept() for step in made]
    given = [step.named() for step in steps]
    still = start.get(failing.name)
    if still is not None and all(
        np.array_equal(step.parameters[failing.name], still.astype(failing.dtype)) for step in steps
    ):
        return "the candidate never changes it: it is frozen, or the optimizer does not have it"
    rows = {failing.name: replace(failing, distance=np.inf)}  # it is that of another run

    def matches() -> Iterator[Match]:
        for words, make in mistaken_updates(optimizer.torch):
            try:
                mistaken = replace(optimizer, torch=make)
                steps = pair.reference.update(start, gradients, mistaken, TRUTH)
                distances = [
                    _distance(step.named(), taken, failing.dtype, rows)
                    for step, taken in zip(steps, given, strict=True)
                ]
            except ValueError:  # the optimizer has no such option
                continue
            yield max(distances), words, ""

    return _closest(matches())[0]


def reproduces(made: Arrays, judged: Judged, dtype: str) -> bool:
    """Whether `made`, the reference computed another way, equals the candidate within bounds."""
    rows = {row.name: row for row in judged.rows}
    claimed = dict(judged.candidate)
    made = dict(made)
    for name, array in made.items():  # non-finite elements must be in the same places
        given = claimed.get(name)
        if given is None or given.shape != array.shape:
            return False
        finite = np.isfinite(array)
        if not np.array_equal(finite, np.isfinite(given)):
            return False
        made[name], claimed[name] = np.where(finite, array, 0), np.where(finite, given, 0)
    return bool(np.isfinite(_distance(made, claimed, dtype, rows)))


def _mistakes(found: Alone) -> Iterator[Match]:
    """For every known mistake of a stage: its distance from the candidate, its words, its part."""
    rows = {row.name: row for row in found.judged.rows}
    for known in found.stage.mistakes():
        try:
            made = run(known.side, found.place.check, found.parameters, found.inputs, TRUTH)
            if found.place.check == "gradients" and not _same_value(found, known.side):
                continue
        except UNFIT:
            continue
        distance = _distance(made, found.judged.candidate, found.place.dtype, rows)
        yield distance, known.words, known.part


def _same_value(found: Alone, side: Any) -> bool:
    """Whether a mistake leaves the value right, as it must if only gradients are wrong."""
    given = (found.parameters, found.inputs, TRUTH)
    right = run(found.stage.pair.reference, "forward", *given)
    return np.isfinite(_distance(right, run(side, "forward", *given), TRUTH, {}))


def _distance(
    mistaken: Mapping[str, Value],
    given: Mapping[str, Value],
    dtype: str,
    rows: Mapping[str, Row],
) -> float:
    """The largest distance in ULP of each array's scale; infinite if one is out of bounds.

    Infinite, too, if no array is determined or equal, or the truth is about as near to one that
    fails: `rows` have its distance, and the spread of the reference's runs.
    """
    worst, shown = 0.0, False
    largest = max(map(magnitude, mistaken.values()), default=0.0)
    for name, array in mistaken.items():
        claimed = given.get(name)
        if array is None and claimed is None:
            continue
        if array is not None and claimed is not None and array.shape != claimed.shape:
            return float("inf")
        array = np.zeros_like(claimed) if array is None else array
        claimed = np.zeros_like(array) if claimed is None else claimed
        array, claimed, _ = without_fill(dtype, array, claimed, array)
        distance = float(np.max(np.abs(claimed.astype(np.float64) - array), initial=0.0))
        row = rows.get(name)
        scale, spread = magnitude(array) or largest, row.spread if row else 0.0
        if not (np.isfinite(scale) and distance <= bound(dtype, spread, scale)):
            return float("inf")
        if row and row.failed and distance > row.distance / NEARER:
            return float("inf")
        # To be near an array that is not determined shows nothing; to be equal to it does.
        if distance == 0 or determined(dtype, spread, scale):
            shown = True
            worst = max(worst, distance / (epsilon(dtype) * scale) if scale else 0.0)
    return worst if shown else float("inf")


def _closest(matches: Iterable[Match]) -> tuple[str, str]:
    """Words and part of the nearest mistake within its bounds; if several are, of the first."""
    ulp, words, part = min(matches, key=lambda match: match[0], default=(float("inf"), "", ""))
    return (f"{words} (matches to {ulp:.2g} ULP)", part) if np.isfinite(ulp) else ("", "")
