"""Stages that hold other numbers in a right network: not wrong, but not comparable either.

Most hold the same numbers in another layout. If the layouts have different shapes, such as
(batch, time, features) and (time, batch, features), the stage is left out from the start. This file
is about those whose shapes happen to be equal; about those of a module that both sides call several
times, in another order; and about those for which later code makes up.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np

from parity.distance import largest_distance
from parity.results import Row
from parity.sides.pair import ModulePair
from parity.sides.side import Arrays, Pair, Side, floating, outputs, real
from parity.tolerances import TRUTH


def in_another(
    pair: Pair, inputs: Arrays, dtype: str, truth: Arrays, rows: Sequence[Row]
) -> frozenset[str]:
    """The failing stages that are right in another layout.

    Not a stage at which the loss has no gradient, since its value, right or wrong, does not reach
    the output; whole numbers have none.

    Args:
        pair: both sides.
        inputs: the inputs of the rows.
        dtype: the dtype of the rows.
        truth: the reference's stages.
        rows: the rows of the forward pass in that dtype.
    """
    forward = {row.name: row for row in rows if row.check == "forward"}
    failing = {name: row for name, row in forward.items() if row.failed}
    if not failing or not isinstance(pair, ModulePair):
        return frozenset()
    if not outputs(forward, pair.reference.output):  # the candidate raised an error
        return frozenset()
    returned = outputs(forward, pair.reference.output)
    given = pair.candidate.forward(pair.candidate.parameters, inputs, dtype)
    slopes = pair.reference.cotangents(pair.reference.parameters, inputs, TRUTH)
    turned = frozenset(
        name
        for name, row in failing.items()
        if name in truth and name in given
        and (not floating(truth[name]) or np.any(slopes.get(name, 0)))
        and row.determined
        and any(_near(other, given[name], row.bound) for other in _others(name, truth))
    )  # fmt: skip
    # If one call of a module is another one, the other may be the one, whose loss has no gradient.
    modules = {_module(name) for name in turned}
    turned |= {
        name
        for name, row in failing.items()
        if name in truth and name in given and _module(name) in modules and row.determined
        and any(_near(other, given[name], row.bound) for other in _calls(name, truth))
    }  # fmt: skip
    # An output in another layout is wrong, and the layout of what it is made of may be the fault.
    return frozenset() if turned.intersection(returned) else turned


def made_up_for(
    pair: Pair, inputs: Arrays, dtype: str, truth: Arrays, rows: Sequence[Row]
) -> frozenset[str]:
    """The failing stages for which later code makes up: output and gradients are right in float64.

    One side may have an activation inside of a module, the other after it; one mask may be true
    where the other is false. Every number that differs must be read on one side, as a gradient
    shows, or else no output shows whether it is right; an input that has none, such as a mask,
    shows in what its module returns. An LSTM may also run over padding that PyTorch packs away.
    """
    returned = outputs((row.name for row in rows if row.check == "forward"), pair.reference.output)
    if dtype != TRUTH or not returned or not isinstance(pair, ModulePair):
        return frozenset()
    failing = {r.name: r.bound for r in rows if r.check == "forward" and r.failed}
    if not failing or any(r.failed for r in rows if r.check == "gradients" or r.name in returned):
        return frozenset()
    sides: tuple[Side, Side] = (pair.reference, pair.candidate)
    given = pair.candidate.forward(pair.candidate.parameters, inputs, dtype)
    slopes = [side.cotangents(side.parameters, inputs, TRUTH) for side in sides]
    lstms = () if pair.reference.running.alone else [path or "lstm" for path in pair.lstms]
    padded = {lstm for lstm in lstms if _is_padded(lstm, truth)}

    def is_read(name: str) -> bool:
        ours, theirs = given.get(name), truth.get(name)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            return False
        if _module(name) in padded:
            return True
        if not (floating(ours) and floating(theirs)):
            return ".input" in name
        differs = ~(np.abs(ours - theirs) <= failing[name])
        read = sum(np.abs(by_stage[name]) for by_stage in slopes if name in by_stage)
        return bool(np.all(np.broadcast_to(read, ours.shape)[differs]))

    return frozenset(filter(is_read, failing))


def _is_padded(lstm: str, truth: Arrays) -> bool:
    """Whether PyTorch's LSTM has lengths, which the other one has not: its last steps are zeros."""
    output = truth.get(f"{lstm}.output")
    return output is not None and f"{lstm}.lengths" not in truth and not output[:, -1].any(-1).all()


KINDS = {
    "in another layout or order of calls": in_another,
    "in which the models differ, for which later code makes up": made_up_for,
}
"""Why stages are left out, in words → the stages that are, of failing ones."""


def is_elsewhere(
    pair: Pair, rows: Sequence[Row], others: Sequence[Row], turned: Collection[str]
) -> bool:
    """Whether the rows without stages in another layout are to be taken.

    If an output fails, the layout may be the fault; unless a stage is wrong by itself, whose own
    input is in the same layout on both sides.

    Args:
        pair: both sides.
        rows: the rows with these stages.
        others: those without them.
        turned: these stages.
    """
    forward = {row.name: row for row in rows if row.check == "forward"}
    returned = outputs(forward, pair.reference.output)
    if returned and not any(forward[name].failed for name in returned):
        return True
    wrong = next((row.name for row in others if row.failed and row.check == "local"), None)
    readers = {stage.partition(".input")[0] for stage in turned if ".input" in stage}
    return wrong is not None and not any(f"{wrong}.".startswith(f"{m}.") for m in readers)


def without(pair: Pair, stages: Collection[str], why: str) -> Pair:
    """The pair without these stages, and with a note about them."""
    assert isinstance(pair, ModulePair)
    words = f"stages {why}, left out: {', '.join(sorted(stages))}"
    chosen = frozenset(pair.reference.running.chosen or ()).difference(stages)
    sides = pair.reference.choosing(chosen), pair.candidate.choosing(chosen)
    return replace(pair, reference=sides[0], candidate=sides[1], notes=(*pair.notes, words))


def _others(name: str, truth: Arrays) -> Iterator[np.ndarray]:
    """The stage in other layouts, and in other calls of its module: `a[1].input` for `a.input`."""
    yield from _layouts(truth[name])
    yield from _calls(name, truth)


def _calls(name: str, truth: Arrays) -> Iterator[np.ndarray]:
    """The stage in other calls of its module."""
    yield from (truth[n] for n in truth if n != name and _stage(n) == _stage(name))


def _stage(name: str) -> str:
    return re.sub(r"\[\d+\]", "", name)


def _module(name: str) -> str:
    return re.sub(r"\.(input.*|output|[hc]_[n0]|lengths)$", "", _stage(name))


def _near(truth: np.ndarray, given: np.ndarray, bound: float) -> bool:
    if truth.shape != given.shape:
        return False
    return largest_distance(*real(given, truth))[0] <= bound


def _layouts(array: np.ndarray) -> Iterator[np.ndarray]:
    """The array with its axes in other orders, and with an axis of two joined in the other order.

    A time-major program joins time and batch as (time · batch), a batch-major one as
    (batch · time); the features of an image are joined as (channels · height · width) or
    (height · width · channels).
    """
    shape = array.shape
    for order in permutations(range(array.ndim)):
        turned = array.transpose(order)
        if turned.shape == shape and order != tuple(range(array.ndim)):
            yield turned
    for axis, size in enumerate(shape):
        for outer in range(2, size // 2 + 1):
            if size % outer == 0:
                split = (*shape[:axis], outer, size // outer, *shape[axis + 1 :])
                yield array.reshape(split).swapaxes(axis, axis + 1).reshape(shape)
