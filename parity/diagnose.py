"""What is wrong at a wrong stage: the known mistake that gives the candidate's own numbers.

A mistake is named only if the reference with that mistake in it agrees with the candidate as well
as a right candidate agrees with the reference, by the bounds of `parity.tolerances`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from parity.comparison import magnitude
from parity.mistakes import arrays
from parity.mistakes.update import of_update as mistaken_updates
from parity.optimizers import Optimizer
from parity.port import Arrays, Gradients, Port, Side
from parity.report import Row
from parity.stages import Alone, run
from parity.tolerances import TRUTH, bound, epsilon


def of_stage(chain: Sequence[Alone]) -> tuple[str, str]:
    """What is wrong in the innermost of some stages within each other, and in which part.

    Either is "" if it is not known.
    """
    for found in reversed(chain):
        words, part = _closest(_mistakes(found))
        if words:
            return words, part
    found = chain[-1]
    failing = [row for row in found.rows if not row.passed and np.isfinite(row.distance)]
    for row in failing:
        truth, given = found.truth[row.name], found.given[row.name]
        if truth is not None and given is not None and (words := _related(truth, given, row)):
            return words, ""
    errors = [_error(found.truth[row.name], found.given[row.name]) for row in failing]
    return arrays.precision(max(errors, default=0.0)), ""


def _error(truth: np.ndarray | None, given: np.ndarray | None) -> float:
    """The largest error as a part of the scale; 0 unless most elements have one about as large."""
    if truth is None or given is None or not magnitude(truth):
        return 0.0
    errors = np.abs(given - truth)
    everywhere = np.median(errors) >= errors.max() / 32
    return float(errors.max() / magnitude(truth)) if everywhere else 0.0


def of_parameter(name: str, theirs: Arrays, ours: Arrays) -> str:
    """What the candidate holds instead of the reference's parameter."""
    if name not in theirs or name not in ours:
        return ""
    given = ours[name]
    for words, array in arrays.of_parameter(name, theirs):
        if np.array_equal(array.astype(given.dtype), given):
            return words
    return ""


def of_update(
    failing: Row, port: Port, optimizer: Optimizer, gradients: Sequence[Gradients]
) -> str:
    """What is wrong with the candidate's optimizer, judged by all steps on these gradients."""
    start, ours, theirs = port.reference.parameters, port.candidate.update, port.reference.update
    assert ours is not None
    assert theirs is not None
    given = [step.named() for step in ours(start, gradients, optimizer, failing.dtype)]
    spreads = {failing.name: failing.spread}

    def matches() -> Iterator[tuple[float, str, str]]:
        for words, make in mistaken_updates(optimizer.torch):
            try:
                steps = theirs(start, gradients, replace(optimizer, torch=make), TRUTH)
                distances = [
                    _distance(step.named(), taken, failing.dtype, spreads)
                    for step, taken in zip(steps, given, strict=True)
                ]
            except ValueError:  # the optimizer has no such option
                continue
            yield max(distances), words, ""

    return _closest(matches())[0]


def _mistakes(found: Alone) -> Iterator[tuple[float, str, str]]:
    """How far the candidate is from every known mistake of a stage, its words and its part."""
    spreads = {row.name: row.spread for row in found.rows}
    for known in found.stage.mistakes():
        try:
            made = run(known.side, found.check, found.parameters, found.inputs, TRUTH)
            if found.check == "gradients" and not _same_value(found, known.side):
                continue
        except (ValueError, RuntimeError):  # it does not fit the sizes at hand
            continue
        yield _distance(made, found.given, found.dtype, spreads), known.words, known.part


def _same_value(found: Alone, side: Side) -> bool:
    """Whether a mistake leaves the value right: it must, where only gradients are wrong."""
    given = (found.parameters, found.inputs, TRUTH)
    right, mistaken = run(found.stage.reference, "forward", *given), run(side, "forward", *given)
    return np.isfinite(_distance(right, mistaken, TRUTH, {}))


def _distance(
    mistaken: Gradients, given: Gradients, dtype: str, spreads: dict[str, float]
) -> float:
    """The largest distance in ULP of each array's scale; infinite where one is out of bounds."""
    worst = 0.0
    largest = max(map(magnitude, mistaken.values()), default=0.0)
    for name, array in mistaken.items():
        claimed = given.get(name)
        if array is None and claimed is None:
            continue
        if array is not None and claimed is not None and array.shape != claimed.shape:
            return float("inf")
        array = np.zeros(()) if array is None else array
        claimed = np.zeros(()) if claimed is None else claimed
        distance = float(np.max(np.abs(claimed.astype(np.float64) - array), initial=0.0))
        scale = magnitude(array) or largest
        if not (np.isfinite(scale) and distance <= bound(dtype, spreads.get(name, 0.0), scale)):
            return float("inf")
        worst = max(worst, distance / (epsilon(dtype) * scale) if scale else 0.0)
    return worst


def _related(truth: np.ndarray, given: np.ndarray, row: Row) -> str:
    for relation in arrays.RELATIONS:
        try:
            words, array = relation(truth, given.astype(np.float64))
        except (ValueError, IndexError):  # it has no such axis
            continue
        if array.shape == given.shape and np.max(np.abs(array - given)) <= row.bound:
            return words
    return ""


def _closest(matches: Iterable[tuple[float, str, str]]) -> tuple[str, str]:
    """Words and part of the nearest mistake that is within its bounds; of equals, of the first."""
    ulp, words, part = min(matches, key=lambda match: match[0], default=(float("inf"), "", ""))
    return (f"{words} (matches to {ulp:.2g} ULP)", part) if np.isfinite(ulp) else ("", "")
