"""The check itself: parameters, inputs, forward, gradients and training of a port, as rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from parity import optimizers as twins
from parity.comparison import Value, identical, judge, magnitude
from parity.environment import describe_environment, pinned_precision
from parity.optimizers import Optimizer
from parity.port import Arrays, Port, cast
from parity.report import Report, Row
from parity.tolerances import TOLERANCES, TRUTH, nudged, nudged_inputs

Progress = Callable[[str], None]
"""Told what is being checked, before it is."""


def compare(
    port: Port,
    inputs: Arrays,
    *,
    dtypes: Sequence[str] = ("float64", "float32"),
    optimizers: Sequence[Optimizer] = (),
    batches: Sequence[Arrays] = (),
    case: str = "",
    facts: Mapping[str, Any] | None = None,
    progress: Progress = lambda what: None,
) -> Report:
    """Compare the two sides of a port.

    Everything both sides compute on is first rounded to the narrowest of the dtypes, so that all
    precisions see the same numbers. Matrix products are pinned to their highest precision.

    Args:
        port: the two sides, each with the parameters it holds.
        inputs: named arrays, among them the loss's `target`.
        dtypes: what to compute in, of the rows of `parity.tolerances.TOLERANCES`.
        optimizers: what to train with, in lockstep, from the parameters and over the batches.
        batches: one training step's inputs each.
        case: how the rows call these inputs.
        facts: for the report's environment, sizes and seeds for instance.
        progress: told what comes next.

    Raises:
        ValueError: an unknown dtype, or none.
    """
    unknown = [dtype for dtype in dtypes if dtype not in TOLERANCES]
    if unknown or not dtypes:
        raise ValueError(
            f"dtypes: expected at least one of {tuple(TOLERANCES)}, got {tuple(dtypes)!r}"
        )
    narrowest = max(dtypes, key=lambda dtype: np.finfo(dtype).eps)
    sizes = {name: list(array.shape) for name, array in inputs.items()}
    facts = {"inputs": sizes, "training_steps": len(batches), **(facts or {})}
    with pinned_precision():
        rows = list(_given(port, inputs, case))
        held = (cast(side.parameters, narrowest) for side in (port.reference, port.candidate))
        port = port.holding(*held)
        inputs = cast(inputs, narrowest)
        batches = [cast(batch, narrowest) for batch in batches]
        for dtype in dtypes:
            progress(f"{case} {dtype}: forward and gradients")
            rows += _functions(port, inputs, dtype, case)
            for optimizer in optimizers if batches else ():
                progress(f"{case} {dtype}: training, {optimizer.name}")
                rows += _training(port, optimizer, batches, dtype, case)
        environment = {**describe_environment(dtypes), "cases": {case: facts}}
    return Report(tuple(rows), environment)


def _given(port: Port, inputs: Arrays, case: str) -> Iterator[Row]:
    """What the sides are handed: equal parameters, finite inputs."""
    ours, theirs = port.candidate.parameters, port.reference.parameters
    for name in _names(theirs, ours):
        yield identical(
            theirs.get(name), ours.get(name), note="the two sides do not hold the same parameter",
            case=case, check="parameters", dtype="", name=name,
        )  # fmt: skip
    for name, array in inputs.items():
        yield identical(array, array, note="", case=case, check="inputs", dtype="", name=name)


def _functions(port: Port, inputs: Arrays, dtype: str, case: str) -> Iterator[Row]:
    """Every stage alone, every stage of the forward pass, every gradient in backward order."""
    ours, theirs = port.candidate, port.reference
    stages = theirs.forward(theirs.parameters, inputs, TRUTH)

    def rows(check: str, expected: Any, claimed: Any, truth: Any, *data: Arrays) -> Iterator[Row]:
        own = [expected(theirs.parameters, *data, dtype)]
        for seed in range(TOLERANCES[dtype].nudges):
            near = (nudged_inputs(arrays, dtype, seed) for arrays in data)
            own.append(expected(nudged(theirs.parameters, dtype, seed), *near, dtype))
        given = claimed(ours.parameters, *data, dtype)
        for name in _names(truth, given):
            place = {"case": case, "check": check, "dtype": dtype, "name": name}
            yield _judged(truth, given, own, 0.0, place)

    if theirs.local and ours.local:
        yield from rows("local", theirs.local, ours.local, stages, inputs, stages)
    yield from rows("forward", theirs.forward, ours.forward, stages, inputs)
    gradients = theirs.gradients(theirs.parameters, inputs, TRUTH)
    yield from rows("gradients", theirs.gradients, ours.gradients, gradients, inputs)


def _training(
    port: Port, optimizer: Optimizer, batches: Sequence[Arrays], dtype: str, case: str
) -> list[Row]:
    """Both sides trained from the same start over the same batches, compared after every step.

    A row per quantity: its first failing step, or else the step nearest to its bound. An error
    made in one step stays in the state, so the reference's spread only grows from step to step.
    """
    reference, candidate = port.reference, port.candidate
    start = reference.parameters
    unused = {n for n, g in reference.gradients(start, batches[0], dtype).items() if g is None}
    truth = reference.train(start, batches, optimizer, TRUTH)
    given = candidate.train(candidate.parameters, batches, optimizer, dtype)
    own = [reference.train(start, batches, optimizer, dtype)]
    for seed in range(TOLERANCES[dtype].nudges):
        near = twins.nudged(optimizer, dtype, seed)
        own.append(reference.train(nudged(start, dtype, seed), batches, near, dtype))
    place: dict[str, Any] = {"case": case, "check": f"training, {optimizer.name}", "dtype": dtype}
    rows: dict[str, Row] = {}
    spreads: dict[str, float] = {}
    for step, runs in enumerate(zip(truth, given, *own, strict=True), start=1):
        expected, claimed, *others = (run.named() for run in runs)
        for name in _names(expected, claimed):
            here = {**place, "name": name, "step": step}
            if name in unused:
                row = _untouched(start.get(name), others[0].get(name), claimed.get(name), here)
            else:
                row = _judged(expected, claimed, others, spreads.get(name, 0.0), here)
                spreads[name] = row.spread
            before = rows.get(name)
            if before is None or (before.passed and _worse(row, before)):
                rows[name] = row
    return list(rows.values())


def _worse(row: Row, than: Row) -> bool:
    return not row.passed or row.tightness > than.tightness


def _untouched(start: Value, reference: Value, candidate: Value, place: dict[str, Any]) -> Row:
    """A parameter that the forward pass never uses must stay what it was, on both sides."""
    sides = {"the candidate": candidate, "the reference": reference}
    rows = [
        identical(start, held, note=f"never used, yet {side} moved it", **place)
        for side, held in sides.items()
    ]
    return min(rows, key=lambda row: row.passed)


def _judged(
    truth: Mapping[str, Value],
    given: Mapping[str, Value],
    own: Sequence[Mapping[str, Value]],
    spread: float,
    place: dict[str, Any],
) -> Row:
    """One name of each mapping against the others; a name that one side lacks fails."""
    name = place["name"]
    for side, arrays in (("the reference", truth), ("the candidate", given)):
        if name not in arrays:
            note = f"{side} has nothing of this name"
            return Row(passed=False, distance=float("nan"), note=note, **place)
    others = [run.get(name) for run in own]
    largest = max(map(magnitude, truth.values()))
    return judge(truth[name], given[name], others, spread=spread, largest=largest, **place)


def _names(reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> list[str]:
    """All names, in the reference's order, then what the candidate has besides."""
    return list(dict.fromkeys([*reference, *candidate]))
