"""Runs in lockstep: several sides that train together, compared after every step."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, tee
from typing import Any, NamedTuple

import numpy as np

from flax_bilstm.cli.memory import trim
from parity import nudging
from parity.comparison import doubtful, identical, judge
from parity.distance import Value
from parity.place import Place
from parity.results import Row, acknowledge, missing
from parity.sides.optimizers import Optimizer, OptimizerError
from parity.sides.side import Arrays, Gradients, Pair, Side, Step, cast
from parity.tolerances import TRUTH

MUCH = 2**30
"""After how many bytes of freed arrays memory is given back, which makes the next step slower."""


class CandidateError(Exception):
    """An error that the candidate's code raised during training."""

    def __init__(self, raised: Exception) -> None:
        super().__init__(str(raised))
        self.raised = raised


class Losses(NamedTuple):
    """The loss before every step, of both sides."""

    reference: list[float]
    candidate: list[float]


def train(
    port: Pair, optimizer: Optimizer, batches: Sequence[Arrays], unused: set[str], place: Place
) -> tuple[tuple[Row, ...], Losses]:
    """Train both sides from the same start over the same batches; compare after every step.

    `unused` has the parameters for which the reference's gradient is None.
    """
    nudged: list[Side] = []
    rows: list[Row] = []
    losses = Losses([], [])
    for sides, rechecked in nudging.rounds(port.reference, place.dtype):
        nudged += sides
        rows, losses = _train(port, optimizer, batches, unused, place, nudged)
        if not doubtful(rows, rechecked):
            break
    return acknowledge(rows, port.known), losses


def _train(
    port: Pair,
    optimizer: Optimizer,
    batches: Sequence[Arrays],
    unused: set[str],
    place: Place,
    nudged: Sequence[Side],
) -> tuple[list[Row], Losses]:
    reference, candidate, dtype = port.reference, port.candidate, place.dtype
    start = reference.parameters
    losses = Losses([], [])
    truth = reference.train(start, batches, optimizer, TRUTH)
    if dtype == TRUTH:
        truth, plain = tee(truth)
    else:
        plain = reference.train(start, batches, optimizer, dtype)
    trained = candidate.train(candidate.parameters, batches, optimizer, dtype)
    given = _recorded(trained, losses.candidate)
    moved = (side.train(start, batches, optimizer, dtype) for side in nudged)
    own = [_recorded(plain, losses.reference), *moved]
    rows = compare_steps(truth, given, own, start, unused, place, port.known)
    return rows, Losses(*(list(map(float, of)) for of in losses))


def _recorded(steps: Iterator[Step], losses: list[Any]) -> Iterator[Step]:
    for step in steps:
        losses.append(step.loss)
        yield step
        del step  # frees memory before the next one is computed


def update(
    port: Pair, optimizer: Optimizer, gradients: Sequence[Gradients], place: Place
) -> tuple[Row, ...]:
    """Compare the optimizers alone: from the reference's parameters, on the same gradients."""
    reference, candidate, dtype = port.reference, port.candidate, place.dtype
    start = reference.parameters
    unused = {n for n, g in gradients[0].items() if g is None}
    truth = reference.update(start, gradients, optimizer, TRUTH)
    given = candidate.update(start, gradients, optimizer, dtype)
    own = [
        side.update(start, gradients, optimizer, dtype) for side in nudging.runs(reference, dtype)
    ]
    rows = compare_steps(truth, given, own, start, unused, place)
    return acknowledge(rows, port.known)


NO_MOMENT = (
    "the reference's optimizer has none, and the candidate's has an array: the optimizers differ"
)


def compare_steps(
    truth: Iterator[Step],
    given: Iterator[Step],
    own: Sequence[Iterator[Step]],
    start: Arrays,
    unused: set[str],
    place: Place,
    known: Mapping[str, str] | None = None,
) -> list[Row]:
    """A row per quantity: its first failing step, else the determined step nearest to its bound.

    An error made in one step stays in the state, so the reference's spread can only grow with the
    steps. If the first failing step is a known difference, one that is not finite goes before it.
    """
    rows: dict[str, Row] = {}
    lost: dict[str, Row] = {}
    spoiled: dict[str, Row] = {}
    spreads: dict[str, float] = {}
    for step, claimed, expected, *others in _together(given, truth, *own):
        for name in names(expected, claimed):
            here = replace(place, name=name, step=step)
            row = judged(expected, claimed, others, spreads.get(name, 0.0), here, False)
            spreads[name] = row.spread
            if not row.determined:
                lost.setdefault(name, row)
            still = np.array_equal(start.get(name, ()), expected.get(name, ()))
            if row.failed and name in unused and still:  # it may move in another step
                row = _untouched(start.get(name), others[0].get(name), claimed.get(name), here)
            trained = name.rpartition(".")[0] not in unused
            if row.failed and trained and expected.get(name, ()) is None:
                row = replace(row, note=NO_MOMENT)
            before = rows.get(name)
            if before is None or (before.passed and _worse(row, before)):
                rows[name] = row
            if not (row.passed or np.isfinite(row.candidate or 0)):
                spoiled.setdefault(name, row)
        del expected, claimed, others  # frees memory before the next step is computed
    for name, row in spoiled.items():
        if acknowledge([rows[name]], known or {})[0].known:
            rows[name] = row
    return [_with_note(row, lost.get(name)) for name, row in rows.items()]


def _together(candidate: Iterator[Step], *others: Iterator[Step]) -> Iterator[list[Any]]:
    """Number and arrays of every side, step by step; unlike `zip`, this keeps no earlier step.

    JAX goes on computing while the others make their steps: its arrays are read last. The two
    frameworks compute in different threads, so that a large network would need far more memory
    than its arrays if what is freed were not given back.
    """
    freed = 0
    for number in count(1):
        with _blamed():
            claimed = next(candidate, None)
        made = [next(side, None) for side in others]
        if claimed is None:
            if any(step is not None for step in made):
                error = ValueError(f"it makes no step {number}, and the reference does")
                raise CandidateError(error)
            return
        expected = [step.named() for step in made if step is not None]
        with _blamed():
            arrays = claimed.named()
        yield [number, arrays, *expected]
        freed += sum(array.nbytes for array in arrays.values() if array is not None)
        del claimed, arrays, made, expected  # frees memory before the next step is computed
        if freed >= MUCH:
            trim()
            freed = 0


@contextmanager
def _blamed() -> Iterator[None]:
    """Raise an error as the candidate's, unless the table of optimizers is wrong."""
    try:
        yield
    except OptimizerError:
        raise
    except Exception as error:
        raise CandidateError(error) from error


def _worse(row: Row, than: Row) -> bool:
    """Whether `row` goes before `than`: failing first, then determined, then nearest its bound."""
    return (not row.passed, row.determined, row.tightness) > (
        False,
        than.determined,
        than.tightness,
    )


def _with_note(row: Row, lost: Row | None) -> Row:
    """The row, with a note of the step from which on the array is undetermined."""
    if lost is None or not row.passed or not row.determined:
        return row
    return replace(row, note=f"from step {lost.step} on {lost.note}")


def _untouched(start: Value, reference: Value, candidate: Value, place: Place) -> Row:
    """The row of a parameter that the forward pass never uses: neither side may change it."""
    sides = {"the candidate": candidate, "the reference": reference}
    start = None if start is None else cast({"": start}, place.dtype)[""]  # none is narrower
    rows = [
        identical(start, held, place, f"the reference never trains it, yet {side} moved it")
        for side, held in sides.items()
    ]
    return min(rows, key=lambda row: row.passed)


def judged(
    truth: Mapping[str, Value],
    given: Mapping[str, Value],
    own: Sequence[Mapping[str, Value]],
    spread: float,
    place: Place,
    elements: bool = True,
) -> Row:
    """The row that compares one name across the mappings; a name missing on one side fails."""
    name = place.name
    for side, arrays, others in (
        ("the reference", truth, given), ("the candidate", given, truth),
    ):  # fmt: skip
        if name not in arrays:
            alone = ", ".join([n for n in arrays if n not in others][:5])
            also = f"; it alone has {alone}" if alone else ""
            return missing(place, f"{side} has no array of this name{also}")
    runs = [run.get(name) for run in own]
    return judge(truth[name], given[name], runs, place, spread=spread, elements=elements)


def names(reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> list[str]:
    """All names in the reference's order, then those that only the candidate has."""
    return list(dict.fromkeys([*reference, *candidate]))
