"""After a failed check: which stage is wrong of itself, and what is wrong there, as a row.

The row says it in words that point at code: "layer 0, reverse, t = 17, forget gate: …". It stands
before the check's own rows, so that it is the report's first divergence.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from parity import diagnose, lockstep
from parity.comparison import magnitude
from parity.optimizers import Optimizer
from parity.port import Arrays, Port
from parity.report import Row, first_failing
from parity.stages import Alone, Anatomy, first_wrong
from parity.tolerances import TRUTH, bound


def explain(handed: Sequence[Row], port: Port) -> list[Row]:
    """The rows of the parameters, those that differ with what they hold instead, if recognised."""
    theirs, ours = port.reference.parameters, port.candidate.parameters

    def explained(row: Row) -> Row:
        if row.passed or row.check != "parameters":
            return row
        words = diagnose.of_parameter(row.name, theirs, ours)
        return replace(row, note=f"{row.note}: {words}") if words else row

    return [explained(row) for row in handed]


def locate(
    rows: Sequence[Row],
    port: Port,
    inputs: Arrays,
    optimizers: Sequence[Optimizer],
    batches: Sequence[Arrays],
) -> list[Row]:
    """What explains the first failure among the rows of one case: one row, or none.

    The candidate is given the reference's parameters: what is looked for is wrong code. Nothing is
    found where the port has no stages, or the stages are not what the reference computes.
    """
    first = first_failing(rows)
    anatomy = port.anatomy()
    if first is None or anatomy is None:
        return []
    if not first.check.startswith("training"):
        return _in_functions(port, anatomy, inputs, first, [first.check])
    (optimizer,) = (o for o in optimizers if first.check == f"training, {o.name}")
    steps = port.reference.train(port.reference.parameters, batches, optimizer, TRUTH)
    before = [port.reference.parameters, *(step.parameters for step in steps)]
    slopes = [
        port.reference.gradients(held, batch, TRUTH)
        for held, batch in zip(before, batches, strict=False)
    ]
    failing = first_failing(lockstep.update(port, optimizer, slopes, first.dtype, first.case))
    if failing is not None:
        words = f"the update itself, on the reference's gradients, is wrong: {_size(failing)}"
        known = diagnose.of_update(failing, port, optimizer, slopes)
        return [replace(failing, note=f"{words}; {known}" if known else words)]
    # The update is right: then a function is wrong at the parameters that training has reached.
    reached = (first.step or 1) - 1
    port = port.holding(before[reached], before[reached])
    return _in_functions(port, anatomy, batches[reached], first, ["forward", "gradients"])


def _in_functions(
    port: Port, anatomy: Anatomy, inputs: Arrays, first: Row, checks: Sequence[str]
) -> list[Row]:
    parameters = port.reference.parameters
    truth = anatomy.truth(parameters, inputs)
    claimed = port.reference.forward(parameters, inputs, TRUTH)[anatomy.output]
    described = truth.values[anatomy.output]
    if np.max(np.abs(claimed - described)) > bound(TRUTH, 0.0, magnitude(described)):
        return []
    for check in checks:
        chain = first_wrong(
            anatomy.stages, check, truth, parameters, first.dtype, case=first.case, step=first.step
        )
        if chain:
            return [_row(chain)]
    return []


def _row(chain: list[Alone]) -> Row:
    """The innermost stage of a chain of wrong ones, or the part that a known mistake points at."""
    known, part = diagnose.of_stage(chain)
    found = chain[-1]
    failing = found.failure
    assert failing is not None
    siblings = chain[-2].stage.parts if len(chain) > 1 else ()
    stage = next((one for one in siblings if one.name == part), found.stage)
    t = _time(found if stage is found.stage else chain[-2])
    place = stage.words.format(t="" if t is None else f", t = {t}")
    what = "" if found.check == "forward" else f"gradient of {failing.name}, "
    return replace(
        failing,
        name=stage.name,
        check=f"first wrong stage, {found.check}",
        note=f"{place}: {known or 'no known mistake explains it'}; {what}{_size(failing)}",
    )


def _size(row: Row) -> str:
    """How far a row is off, in words."""
    if row.note:
        return row.note
    return (
        f"{row.distance:.3g} off ({row.ulp(row.distance):.3g} ULP), allowed {row.bound:.3g} "
        f"({row.ulp(row.bound):.3g} ULP)"
    )


def _time(found: Alone) -> int | None:
    """The first wrong time step in order of computation, where an array of the stage has one."""
    latest_first = found.stage.backwards != (found.check == "gradients")
    for row in found.rows:
        truth, given = found.truth.get(row.name), found.given.get(row.name)
        if row.passed or row.name not in found.stage.over_time or truth is None or given is None:
            continue
        if given.shape != truth.shape:
            continue
        with np.errstate(invalid="ignore"):
            wrong = ~(np.abs(given.astype(np.float64) - truth) <= row.bound)
        if not np.isfinite(given).all():
            wrong = ~np.isfinite(given)
        steps = np.unique(np.argwhere(wrong)[:, 1])
        return int(steps[-1] if latest_first else steps[0])
    return None
