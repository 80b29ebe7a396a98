"""The comparison of two sides: what is handed over, then every check, as a report."""

from collections.abc import Mapping, Sequence
from typing import Any

from parity import handed_over
from parity.checks import Checks, Progress
from parity.diagnosis.locate import explain
from parity.environment import describe_environment, pinned_precision
from parity.place import ONE_CASE, Case
from parity.report import Report
from parity.results import Row, acknowledge
from parity.sides.optimizers import Optimizer
from parity.sides.side import Arrays, Pair, cast
from parity.tolerances import DTYPES, TOLERANCES, epsilon


def compare_sides(
    pair: Pair,
    inputs: Arrays,
    *,
    dtypes: Sequence[str] = DTYPES,
    optimizers: Sequence[Optimizer] = (),
    batches: Sequence[Arrays] = (),
    case: Case = ONE_CASE,
    facts: Mapping[str, Any] | None = None,
    progress: Progress = lambda what: None,
) -> Report:
    """Compare the two sides of a pair.

    All parameters and inputs are first rounded to the narrowest of the dtypes, so that all dtypes
    compute on the same numbers. Matrix products run at their highest precision.

    Args:
        pair: the two sides, each with its parameters.
        inputs: named arrays, among them the loss's `target`.
        dtypes: the dtypes to compute in, keys of `parity.tolerances.TOLERANCES`.
        optimizers: each trains both sides in lockstep from their parameters over the batches, but
            not in bfloat16, where training is not judged.
        batches: the inputs of each training step.
        case: the case of the rows.
        facts: what to add to the facts of the case, such as sizes and seeds.
        progress: called with what comes next.

    Raises:
        ValueError: an unknown dtype, or none.
    """
    unknown = [dtype for dtype in dtypes if dtype not in TOLERANCES]
    if unknown or not dtypes:
        raise ValueError(
            f"dtypes: expected at least one of {tuple(TOLERANCES)}, got {tuple(dtypes)!r}"
        )
    narrowest = max(dtypes, key=epsilon)
    trains = tuple(dtype for dtype in dtypes if batches and TOLERANCES[dtype].trains)
    trainable = set(pair.reference.parameters) - set(pair.reference.buffers)
    parameters = sum(array.size for array in pair.reference.parameters.values())
    unseen = list(handed_over.in_no_dtype_of(pair.reference, dtypes))
    with pinned_precision(parameters):
        settings = handed_over.settings(pair, case) if trains else ()
        handed: Sequence[Row] = [*handed_over.rows(pair, inputs, case), *settings]
        handed = acknowledge(handed, pair.known)
        both = (cast(side.parameters, narrowest) for side in (pair.reference, pair.candidate))
        checks = Checks(
            pair.holding(*both), cast(inputs, narrowest), [cast(b, narrowest) for b in batches],
            tuple(dtypes), trains, tuple(optimizers) if trainable else (), case, progress, unseen,
        )  # fmt: skip
        rows = checks.rows()
        if any(row.failed for row in (*handed, *rows)):
            progress(f"{case}: locating the first wrong stage")
            handed = explain(handed, checks.pair)
            rows = [*checks.located(rows), *rows]
        environment = describe_environment(dtypes)
    # A variant is never trained, and the first case is, unless nothing is.
    only = [] if case.which else [*(setting.words for setting in pair.settings), pair.only]
    unseen += [f"compared only by training: {words}" for words in only if words and not trains]
    facts = {
        "inputs": {name: list(array.shape) for name, array in inputs.items()},
        "training_steps": len(batches), **(facts or {}), "parameters": parameters,
        # The pair of the checks also has notes on stages in another layout.
        **({"notes": notes} if (notes := [*checks.pair.notes, *unseen]) else {}),
    }  # fmt: skip
    figures = {"loss_curves": checks.losses} if checks.losses else {}
    return Report((*handed, *rows), environment, figures, {case: facts}, pair.known)
