"""Run both sides and compare: the truth, the plain and nudged references, and the candidate."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from parity import lockstep, nudging
from parity.comparison import doubtful
from parity.distance import Value
from parity.place import Place
from parity.results import Row, acknowledge, without_distance
from parity.sides.side import Pair, Side
from parity.tolerances import TRUTH

Run = Callable[[Side, str], Mapping[str, Value]]
"""(side, dtype) → what it computes in that dtype, by name."""


@dataclass(frozen=True)
class Judged:
    """What both sides computed, and the comparison, a row for every name."""

    truth: Mapping[str, Value]
    candidate: Mapping[str, Value]
    rows: tuple[Row, ...]

    @property
    def failure(self) -> Row | None:
        """The first row that fails."""
        return next((row for row in self.rows if row.failed), None)


def _arrays(run: Run, side: Side, dtype: str) -> dict[str, Value]:
    """What the side computes, in NumPy: a subclass of the user's may return arrays of JAX."""
    found = run(side, dtype)
    if not isinstance(found, Mapping):
        kind = type(found).__name__
        raise TypeError(f"{side.name}: expected a mapping, names → arrays, got {kind}")
    return {name: None if a is None else np.asarray(a) for name, a in found.items()}


def judge_run(
    pair: Pair, run: Run, place: Place, truth: Mapping[str, Value] | None = None
) -> Judged:
    """Run both sides, and compare what they compute.

    Args:
        pair: both sides.
        run: the function to run.
        place: the rows' place, whose dtype the candidate is run in.
        truth: the result of the reference in float64, if it is already computed.
    """
    dtype = place.dtype
    run = partial(_arrays, run)
    truth = run(pair.reference, TRUTH) if truth is None else truth
    own = [truth if dtype == TRUTH else run(pair.reference, dtype)]
    try:
        candidate = run(pair.candidate, dtype)
    except Exception as error:  # any error that the candidate raises is its failure
        return Judged(truth, {}, (raised(error, place),))
    rows: tuple[Row, ...] = ()
    for sides, rechecked in nudging.rounds(pair.reference, dtype):
        own += [run(side, dtype) for side in sides]
        rows = tuple(
            lockstep.judged(truth, candidate, own, 0.0, replace(place, name=name))
            for name in lockstep.names(truth, candidate)
        )
        if not doubtful(rows, rechecked):
            break
    return Judged(truth, candidate, acknowledge(rows, pair.known))


def raised(error: Exception, place: Place) -> Row:
    """The row for an error that the candidate raised, named after the stage that raised it."""
    stage = getattr(error, "parity_stage", "the candidate")
    words = (str(error) or "without a message").splitlines()[0]
    note = f"the candidate raises {type(error).__name__}: {words}"
    return without_distance(replace(place, name=stage), note)
