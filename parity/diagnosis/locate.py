"""After a failed check: a row that says which stage is faulty and what is wrong there.

Its note points at code: "layer 0, reverse, t = 17, forget gate: …". The row is put before the rows
of the check, so that it is the report's first divergence. A stage is a submodule, the code between
two submodules, or, in a pair of LSTMs, a layer, a direction, a step or a gate.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from parity import forward_again, lockstep
from parity.comparison import NEVER_TRAINED
from parity.diagnosis import match
from parity.diagnosis.lstm import inside
from parity.judge import Judged, judge_run
from parity.place import Place
from parity.results import Row, first_failing
from parity.sides import fresh
from parity.sides.intercept import nnx_submodules
from parity.sides.optimizers import Optimizer
from parity.sides.pair import ModulePair
from parity.sides.side import Arrays, Gradients, Pair, Side, outputs
from parity.sides.torch_copy import rounded_constants
from parity.tolerances import TRUTH

FAST_VARIANCE = (
    "use_fast_variance=True rounds more than PyTorch's variance if a mean is large: try False"
)
ROUNDED = (
    "of torch_model was rounded to float32 when it was made, which float64 shows, unless the "
    "candidate has the same numbers; make it of Python's numbers"
)
AS_IN_FLOAT32 = 1e-5
"""How far apart float32 and float64 may be, of the scale: some hundred ULP."""
ONLY_TRAINING = (
    "forward pass, gradients and update are right in evaluation mode: what only training mode does "
    "is different"
)


def explain(handed: Sequence[Row], pair: Pair) -> list[Row]:
    """The rows of the parameters; where one differs, its note says how, if that is recognised."""
    theirs, ours = pair.reference.parameters, pair.candidate.parameters

    def explained(row: Row) -> Row:
        if not row.failed or row.check != "parameters":
            return row
        words = match.of_parameter(row.name, theirs, ours)
        return replace(row, note=f"{row.note}: {words}") if words else row

    return [explained(row) for row in handed]


def locate(
    rows: Sequence[Row],
    pair: Pair,
    inputs: Arrays,
    optimizers: Sequence[Optimizer],
    batches: Sequence[Arrays],
) -> list[Row]:
    """At most one row, which explains the first failure among the rows of one case.

    The candidate runs on the reference's parameters, so that only faulty code can differ.
    """
    first = first_failing(rows)
    if first is None or not isinstance(pair, ModulePair):
        return []
    if first.note == NEVER_TRAINED:
        return [replace(first, explains=True)]
    if first.check == forward_again.TRAINED:
        other = forward_again.trained(pair, optimizers[0], batches)
        return _in_functions(other, inputs, first, ["forward"]) if other else []
    if first.check in (forward_again.AGAIN, forward_again.GRADIENTS):
        check = "forward" if first.check == forward_again.AGAIN else "gradients"
        return _in_functions(fresh.moved(pair), inputs, first, [check])
    if first.check != "training":
        check = "gradients" if first.check == "gradients" else "forward"
        return _in_functions(pair, inputs, first, [check])
    (optimizer,) = (o for o in optimizers if o.name == first.optimizer)
    steps = pair.reference.train(pair.reference.parameters, batches, optimizer, TRUTH)
    before = [pair.reference.parameters, *(step.kept().parameters for step in steps)]
    slopes = [
        pair.reference.gradients(held, batch, TRUTH)
        for held, batch in zip(before, batches, strict=False)
    ]
    try:
        place = replace(first.group, check="update", explains=True)
        updates = lockstep.update(pair, optimizer, slopes, place)
    except lockstep.CandidateError:
        return []
    failing = first_failing(updates)
    if failing is not None:
        words = f"the update itself, on the reference's gradients, is wrong: {_size(failing)}"
        known = match.of_update(failing, pair, optimizer, slopes)
        return [replace(failing, note=f"{words}; {known or match.UNKNOWN}")]
    # The update is right, so the forward pass or the gradients fail at the trained parameters.
    reached = (first.step or 1) - 1
    trained = pair.holding(before[reached], before[reached])
    found = _in_functions(trained, batches[reached], first, ["forward", "gradients"])
    if found or pair.candidate.running.start_training is None:
        return found
    return [replace(first, explains=True, note=f"{ONLY_TRAINING}; {_size(first)}")]


def _in_functions(pair: ModulePair, inputs: Arrays, first: Row, checks: Sequence[str]) -> list[Row]:
    parameters = pair.reference.parameters
    values = pair.reference.forward(parameters, inputs, TRUTH)
    cotangents = pair.reference.cotangents(parameters, inputs, TRUTH)
    for check in checks:

        def run(side: Side, dtype: str, check: str = check) -> Gradients:
            if check == "forward":
                return side.local(parameters, inputs, values, dtype)
            return side.local_gradients(parameters, inputs, values, cotangents, dtype)

        place = Place(first.case, check, first.dtype, step=first.step, explains=True)
        judged = judge_run(pair, run, place)
        row = judged.failure
        if row is None:
            continue
        path = _lstm_of(row.name, check, pair)
        if path is not None:
            inner = inside.locate(pair, path, parameters, inputs, values, cotangents, row)
            if inner is not None:
                return [inner]
        known = match.of_module_stage(row, judged, pair, run, values, inputs)
        if not known and not row.note:
            known = "; ".join([match.UNKNOWN, *_hints(pair, row)])
        return [_explained(row, judged, check, known, pair.reference.output)]
    return []


def _hints(pair: ModulePair, row: Row) -> Iterator[str]:
    """What else may be the cause."""
    if _has_fast_variance(pair, row.name):
        yield FAST_VARIANCE
    constants = rounded_constants(pair.torch_model)
    if constants and row.distance <= AS_IN_FLOAT32 * row.scale:
        yield f"{', '.join(constants)} {ROUNDED}"


def _has_fast_variance(pair: ModulePair, stage: str) -> bool:
    path = (pair.stages or {}).get(stage)
    norm = None if path is None else nnx_submodules(pair.flax_model).get(path)
    return bool(getattr(norm, "use_fast_variance", False))


def _explained(row: Row, judged: Judged, check: str, known: str, output: str) -> Row:
    what = "" if check == "forward" else _flow(row, judged)
    words = known or row.note or match.UNKNOWN
    size = "" if row.note else f"; {_size(row)}"
    name = row.name if check == "forward" else _made_in(row.name, output)
    return replace(row, name=name, note=f"{what}{words}{size}")


def _made_in(stage: str, output: str) -> str:
    """The stage that computes the gradient that arrives here: the module that reads the value."""
    if outputs([stage], output):
        return "loss"
    module, found, _ = stage.partition(".input")
    return module if found else stage


def _flow(row: Row, judged: Judged) -> str:
    """A note on whether a gradient is wrong or missing."""
    truth, given = judged.truth.get(row.name), judged.candidate.get(row.name)
    if truth is not None and given is not None and np.any(truth) and not np.any(given):
        return f"no gradient arrives at {row.name}: "
    return f"the gradient that arrives at {row.name} is wrong: "


def _lstm_of(stage: str, check: str, pair: ModulePair) -> str | None:
    """The path of the LSTM that computes this stage, or this gradient in the backward pass."""
    made = ("output", "h_n", "c_n") if check == "forward" else ("input", "h_0", "c_0")
    for path in pair.lstms:
        name = path or "lstm"
        call, _, own = stage.removeprefix(name).rpartition(".")
        if stage.startswith(name) and own in made and (not call or call.startswith("[")):
            return path
        prefix = f"{path}." if path else ""
        parameter = stage.removeprefix(prefix)
        if (
            check == "gradients"
            and stage.startswith(prefix)
            and parameter in _parameters(pair, path)
        ):
            return path
    return None


def _parameters(pair: ModulePair, path: str) -> set[str]:
    return {name for name, _ in pair.torch_model.get_submodule(path).named_parameters()}


def _size(row: Row) -> str:
    """A note on how large the error of a row is."""
    if row.note:
        return row.note
    return f"off by {row.in_ulp(row.distance)}, allowed {row.in_ulp(row.bound)}"
