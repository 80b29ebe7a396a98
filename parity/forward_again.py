"""Forward pass and gradients again, on other numbers than the models are handed over with.

These may hide how they are used: a running mean of 0, a buffer that begins as a copy of a weight.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from parity.judge import judge_run
from parity.place import Place
from parity.results import Row
from parity.sides import fresh
from parity.sides.fresh import AnyPair
from parity.sides.optimizers import Optimizer
from parity.sides.side import Arrays, Gradients, Pair, Side
from parity.tolerances import TRUTH

AGAIN, TRAINED = "forward again", "forward after training"
GRADIENTS = "gradients again"


def on_moved(pair: Pair, inputs: Arrays, rows: Sequence[Row], place: Place) -> tuple[Row, ...]:
    """The rows on other parameters and buffers where they are still 0 or 1.

    If differences are known, the rows of the stages without one, each run alone.

    Args:
        pair: both sides.
        inputs: those of the rows.
        rows: those of the first forward pass, and of the stages run alone.
        place: the place of the new rows.
    """
    if not pair.fresh:
        return ()
    other = fresh.moved(pair)
    stages = other.reference.forward(other.reference.parameters, inputs, TRUTH)
    alone = {row.name for row in rows if row.check == "local" and row.passed}
    differ = not all(row.passed for row in rows)

    def run(side: Side, to: str) -> Arrays:
        if differ:
            return side.local(side.parameters, inputs, stages, to)
        return _forward(side, inputs, to)

    judged = judge_run(other, run, place, stages)
    if differ or judged.failure:
        return tuple(row for row in judged.rows if not differ or row.name in alone)

    def slopes(side: Side, to: str) -> Gradients:
        return side.gradients(side.parameters, inputs, to)

    return judged.rows + judge_run(other, slopes, replace(place, check=GRADIENTS)).rows


def on_trained(pair: Pair | None, inputs: Arrays, place: Place) -> tuple[Row, ...]:
    """The rows on what training has left, both sides on the reference's: see `trained`."""
    if pair is None:
        return ()
    return judge_run(pair, lambda side, to: _forward(side, inputs, to), place).rows


def trained(pair: AnyPair, optimizer: Optimizer, batches: Sequence[Arrays]) -> AnyPair | None:
    """The pair on what the reference's training leaves; None if that changes no buffer.

    Other forward passes on trained parameters show in the losses of training.
    """
    start = pair.reference.parameters
    if not pair.reference.buffers:
        return None
    (last,) = deque(pair.reference.train(start, batches, optimizer, TRUTH), maxlen=1)
    left = last.kept().parameters
    if all(np.array_equal(start[name], left[name]) for name in pair.reference.buffers):
        return None
    return pair.holding(left, left)


def _forward(side: Side, inputs: Arrays, dtype: str) -> Arrays:
    return side.forward(side.parameters, inputs, dtype)
