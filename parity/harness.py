"""The check itself: parameters, inputs, forward, gradients and training of a port, as rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from parity import figures, lockstep, nudging
from parity.comparison import doubtful, identical
from parity.environment import describe_environment, pinned_precision
from parity.localise import explain, locate
from parity.lockstep import judged, names
from parity.optimizers import Optimizer
from parity.port import Arrays, Port, Side, cast
from parity.report import Report, Row
from parity.tolerances import DTYPES, TOLERANCES, TRUTH, epsilon

Progress = Callable[[str], None]
"""Told what is being checked, before it is."""


def compare(
    port: Port,
    inputs: Arrays,
    *,
    dtypes: Sequence[str] = DTYPES,
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
        optimizers: what to train with, in lockstep, from the parameters and over the batches; not
            in bfloat16, where training is not judged.
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
    narrowest = max(dtypes, key=epsilon)
    trains = [dtype for dtype in dtypes if batches and TOLERANCES[dtype].trains]
    sizes = {name: list(array.shape) for name, array in inputs.items()}
    facts = {"inputs": sizes, "training_steps": len(batches), **(facts or {})}
    with pinned_precision():
        handed = list(_given(port, inputs, case))
        rows: list[Row] = []
        drawn = []
        held = (cast(side.parameters, narrowest) for side in (port.reference, port.candidate))
        port = port.holding(*held)
        inputs = cast(inputs, narrowest)
        batches = [cast(batch, narrowest) for batch in batches]
        theirs = port.reference
        truths = {
            "forward": theirs.forward(theirs.parameters, inputs, TRUTH),
            "gradients": theirs.gradients(theirs.parameters, inputs, TRUTH),
        }
        for dtype in dtypes:
            progress(f"{case} {dtype}: forward and gradients")
            rows += _functions(port, inputs, dtype, case, truths)
            for optimizer in optimizers if dtype in trains else ():
                progress(f"{case} {dtype}: training, {optimizer.name}")
                trained, losses = lockstep.train(port, optimizer, batches, dtype, case)
                rows += trained
                if dtype == trains[-1]:
                    of = ", ".join(filter(None, (case, optimizer.name, dtype)))
                    drawn.append(figures.loss_curves(of, port.loss, *losses))
        if not all(row.passed for row in (*handed, *rows)):
            progress(f"{case}: looking for what is wrong of itself")
            handed = explain(handed, port)
            rows = [*locate(rows, port, inputs, optimizers, batches), *rows]
        environment = {**describe_environment(dtypes), "cases": {case: facts}}
    return Report((*handed, *rows), environment, {"loss_curves": drawn} if drawn else {})


def _given(port: Port, inputs: Arrays, case: str) -> Iterator[Row]:
    """What the sides are handed: equal parameters, finite inputs."""
    ours, theirs = port.candidate.parameters, port.reference.parameters
    for name in names(theirs, ours):
        yield identical(
            theirs.get(name), ours.get(name), note="the two sides do not hold the same parameter",
            case=case, check="parameters", dtype="", name=name,
        )  # fmt: skip
    for name, array in inputs.items():
        yield identical(array, array, note="", case=case, check="inputs", dtype="", name=name)


def _functions(
    port: Port, inputs: Arrays, dtype: str, case: str, truths: Mapping[str, Any]
) -> Iterator[Row]:
    """Every stage alone, every stage of the forward pass, every gradient in backward order."""
    plain, *moved = nudging.runs(port.reference, dtype)

    def rows(check: str, truth: Any, *data: Arrays) -> Iterator[Row]:
        def run(side: Side) -> Any:
            return getattr(side, check)(side.parameters, *data, dtype)

        known = dtype == TRUTH and check in truths  # then it has been run already
        own = [truth if known else run(plain), *map(run, moved)]
        given = run(port.candidate)

        def judge_all() -> list[Row]:
            place = {"case": case, "check": check, "dtype": dtype}
            known = names(truth, given)
            return [judged(truth, given, own, 0.0, {**place, "name": name}) for name in known]

        found = judge_all()
        if doubtful(found):
            own += map(run, nudging.more(port.reference, dtype))
            found = judge_all()
        yield from found

    stages = truths["forward"]
    if port.reference.local and port.candidate.local:
        yield from rows("local", stages, inputs, stages)
    yield from rows("forward", stages, inputs)
    yield from rows("gradients", truths["gradients"], inputs)
