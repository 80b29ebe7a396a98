"""The check itself: parameters, inputs, forward, gradients and training of a pair, as rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from parity import forward_again, handed_over, layouts, lockstep, other_inputs
from parity.diagnosis.locate import explain, locate
from parity.environment import describe_environment, pinned_precision
from parity.in_training_mode import in_training_mode
from parity.judge import Run, judge_run, raised
from parity.place import ONE_CASE, Case, Place
from parity.report import Report
from parity.results import Row, acknowledge
from parity.sides.optimizers import Optimizer
from parity.sides.side import Arrays, Gradients, Pair, Side, beside, cast, differentiable
from parity.tolerances import DTYPES, TOLERANCES, TRUTH, epsilon

Progress = Callable[[str], None]
"""Called with what is about to be checked."""


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
    trains = [dtype for dtype in dtypes if batches and TOLERANCES[dtype].trains]
    optimizers = optimizers if set(pair.reference.parameters) - set(pair.reference.buffers) else ()
    sizes = {name: list(array.shape) for name, array in inputs.items()}
    parameters = sum(array.size for array in pair.reference.parameters.values())
    facts = {
        "inputs": sizes, "training_steps": len(batches), **(facts or {}), "parameters": parameters,
    }  # fmt: skip
    unseen = list(handed_over.in_no_dtype_of(pair.reference, dtypes))
    with pinned_precision(parameters):
        settings = handed_over.settings(pair, case) if trains else ()
        handed: Sequence[Row] = [*handed_over.rows(pair, inputs, case), *settings]
        handed = acknowledge(handed, pair.known)
        rows: list[Row] = []
        drawn = []
        pair = pair.holding(
            *(cast(s.parameters, narrowest) for s in (pair.reference, pair.candidate))
        )
        inputs = cast(inputs, narrowest)
        batches = [cast(batch, narrowest) for batch in batches]
        for dtype in dtypes:
            pair.candidate.prepare(inputs, dtype, optimizers if dtype in trains else ())
        if trains:
            import_module("torch._dynamo")  # torch's optimizers import it, which takes a second
        reference = pair.reference
        truths: dict[str, Any] = {
            "forward": reference.forward(reference.parameters, inputs, TRUTH),
            "gradients": reference.gradients(reference.parameters, inputs, TRUTH),
        }
        if not truths["forward"]:
            raise ValueError("reference: expected arrays by name of forward, got none")
        if trains and not any(np.any(slope) for slope in truths["gradients"].values()):
            unseen.append("every gradient is 0 at these inputs, which shows little of training")
        functions = {}
        for dtype in dtypes:
            progress(f"{case} {dtype}: forward and gradients")
            pair, functions[dtype] = _in_one_layout(pair, inputs, dtype, case, truths)
            if dtype == dtypes[0] and not any(row.failed for row in functions[dtype]):
                place = Place(case, forward_again.AGAIN, dtype)
                functions[dtype] += forward_again.on_moved(pair, inputs, functions[dtype], place)
                if not case.which and all(row.passed for row in functions[dtype]):
                    unseen += other_inputs.notes(pair, inputs, place)
        if trains and pair.only:
            functions[trains[0]] += in_training_mode(pair, inputs, trains[0], case, unseen)
        unused = {n for n, gradient in truths["gradients"].items() if gradient is None}
        del truths  # frees memory for training
        for dtype in dtypes:
            rows += functions[dtype]
            for optimizer in optimizers if dtype in trains else ():
                progress(f"{case} {dtype}: training, {optimizer.name}")
                place = Place(case, "training", dtype, optimizer=optimizer.name)
                try:
                    trained, losses = lockstep.train(pair, optimizer, batches, unused, place)
                except lockstep.CandidateError as error:
                    rows.append(raised(error.raised, place))
                    continue
                rows += trained
                if dtype == trains[-1]:
                    drawn.append(
                        {"case": str(case), "optimizer": optimizer.name, "dtype": dtype,
                         "loss": pair.loss, **losses._asdict()}
                    )  # fmt: skip
        if pair.only and optimizers and trains:
            place = Place(case, forward_again.TRAINED, trains[0])
            other = forward_again.trained(pair, optimizers[0], batches)
            rows += forward_again.on_trained(other, inputs, place)
        if any(row.failed for row in (*handed, *rows)):
            progress(f"{case}: locating the first wrong stage")
            handed = explain(handed, pair)
            rows = [*locate(rows, pair, inputs, optimizers, batches), *rows]
        only = [*(setting.words for setting in pair.settings), pair.only]
        unseen += [f"compared only by training: {words}" for words in only if words and not trains]
        if pair.notes or unseen:
            facts["notes"] = [*pair.notes, *unseen]
        environment = describe_environment(dtypes)
    figures = {"loss_curves": drawn} if drawn else {}
    return Report((*handed, *rows), environment, figures, {case: facts}, pair.known)


def _in_one_layout(
    pair: Pair, inputs: Arrays, dtype: str, case: Case, truths: dict[str, Any]
) -> tuple[Pair, list[Row]]:
    """The rows of `_functions`; the pair and `truths` lose stages that are in another layout."""
    rows = list(_functions(pair, inputs, dtype, case, truths))
    turned = layouts.in_another(pair, inputs, dtype, truths["forward"], rows)
    if not turned:
        return pair, rows
    other = layouts.without(pair, turned)
    stages = {n: a for n, a in truths["forward"].items() if n not in turned}
    others = list(_functions(other, inputs, dtype, case, {**truths, "forward": stages}))
    if not layouts.is_elsewhere(pair, rows, others, turned):
        return pair, rows
    truths["forward"] = stages
    return other, others


def _at_floating(slopes: Gradients, side: Side, inputs: Arrays) -> Gradients:
    """Without those at inputs of 0 and 1, which a subclass of the user's may give."""
    of_masks = {name: () for name in inputs.keys() - set(differentiable(inputs))}
    return {n: a for n, a in slopes.items() if n not in beside(side.parameters, of_masks)}


def _functions(
    pair: Pair, inputs: Arrays, dtype: str, case: Case, truths: Mapping[str, Any]
) -> Iterator[Row]:
    """Rows of every stage alone, of the forward pass, and of the gradients in backward order."""
    stages = truths["forward"]
    runs: dict[str, Run] = {
        "local": lambda side, to: side.local(side.parameters, inputs, stages, to),
        "forward": lambda side, to: side.forward(side.parameters, inputs, to),
        "gradients": lambda side, to: _at_floating(
            side.gradients(side.parameters, inputs, to), side, inputs
        ),
    }
    if not (pair.reference.opens and pair.candidate.opens and len(stages) > 1):
        del runs["local"]
    for check, run in runs.items():
        yield from judge_run(pair, run, Place(case, check, dtype), truths.get(check, stages)).rows
