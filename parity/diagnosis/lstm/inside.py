"""Inside a pair of LSTMs: locates the faulty layer, direction, step and gate, and what is wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from flax_bilstm.conversion.rows import rows as rows_of
from parity.diagnosis import match, relations
from parity.diagnosis.lstm.stages import Stages
from parity.diagnosis.lstm.truth import truth
from parity.diagnosis.stages import Alone, Stage, Truth, alone, first_wrong
from parity.results import Row
from parity.sides.intercept import nnx_submodules
from parity.sides.pair import ModulePair
from parity.sides.side import Arrays


def locate(
    pair: ModulePair,
    path: str,
    parameters: Arrays,
    inputs: Arrays,
    values: Arrays,
    cotangents: Arrays,
    row: Row,
) -> Row | None:
    """The row that locates a fault in an LSTM and names it; None if it is not found.

    Args:
        pair: the whole networks.
        path: the path of the LSTM in the reference.
        parameters: the parameters of the reference.
        inputs: the inputs of the networks.
        values: the reference's stages.
        cotangents: the loss's gradients at those stages.
        row: the row of the wrong stage, in the forward pass or the gradients.
    """
    name = path or "lstm"
    prefix = f"{path}." if path else ""
    torch_lstm = pair.torch_model.get_submodule(path)
    flax_lstm = nnx_submodules(pair.flax_model)[(pair.stages or {})[path]]
    own = {n: parameters[f"{prefix}{n}"] for n in torch_lstm.state_dict()}
    given = {
        to: values[f"{name}.{of}"]
        for to, of in (("x", "input"), ("h_0", "h_0"), ("c_0", "c_0"), ("lengths", "lengths"))
        if f"{name}.{of}" in values
    }
    if "x" not in given:  # it is in another layout, or another order of calls
        return None
    if "lengths" in inputs and "lengths" not in given and pair.reference.running.alone:
        given["lengths"] = inputs["lengths"]
    after = {
        n: cotangents[f"{name}.{n}"]
        for n in ("output", "h_n", "c_n")
        if f"{name}.{n}" in cotangents
    }
    stages = Stages(torch_lstm, flax_lstm, rows_of(flax_lstm)).all()
    inner = truth(own, given, after)
    chain = first_wrong(stages, inner, own, replace(row.group, step=row.step))
    if not chain:
        return None
    found = _row(chain, inner)
    if path not in ("", "lstm"):
        found = replace(
            found, name=found.name.replace("lstm", path, 1), note=f"{path}, {found.note}"
        )
    return found


def _row(chain: list[Alone], truth: Truth) -> Row:
    """The row of the innermost wrong stage in the chain, or of the part that causes the error."""
    for found in reversed(chain):
        words, part = match.of_lstm_stage(found)
        if words:
            return _described(chain, found, _part(found.stage.parts, part), words)
    step = next((found for found in chain if found.stage.name.endswith(".step")), None)
    if step is None:
        return _described(chain, chain[-1], None, relations.of_arrays(chain[-1].judged))
    if step.place.check == "gradients":
        return _described(chain, chain[-1], None, relations.of_arrays(step.judged))
    blamed = _to_blame(step, truth)
    return _described(chain, step, blamed.stage, relations.of_arrays(blamed.judged), blamed)


def _part(parts: Sequence[Stage], name: str) -> Stage | None:
    return next((part for part in parts if part.name == name), None)


def _to_blame(step: Alone, truth: Truth) -> Alone:
    """The part of a wrong step whose value explains the candidate's step.

    A fault elsewhere may mislead a probe. So a gate is named only if its probed value, put into the
    equations, gives what the candidate computes; otherwise the result of the step is named.
    """
    checked = {
        part.name.rpartition(".")[2]: alone(part, truth, step.parameters, step.place)
        for part in step.stage.parts
    }
    wrong = {name: found for name, found in checked.items() if found is not None and found.failure}
    shown = {name: found for name, found in wrong.items() if found.stage.probed}
    for accused in (*([name] for name in shown), list(shown)):
        probed = {
            name: shown[name].judged.candidate.get(shown[name].stage.name) for name in accused
        }
        if accused and match.reproduces(
            _recomputed(step, truth, probed), step.judged, step.place.dtype
        ):
            return shown[accused[0]]
    return next((found for name, found in wrong.items() if name not in shown), step)


def _recomputed(
    step: Alone, truth: Truth, probed: Mapping[str, np.ndarray | None]
) -> dict[str, np.ndarray]:
    """The step by the equations, from probed values where they exist, else the right ones."""
    cell = step.stage.name.removesuffix(".step")
    names = ("input_gate", "forget_gate", "cell_gate", "output_gate", "before.cell")
    right = {name: truth.values[f"{cell}.{name}"] for name in names}
    right["carry"] = right.pop("before.cell") * truth.values[f"{cell}.valid"]
    i, f, g, o, c = (
        value if probed.get(name) is None else np.asarray(probed[name], np.float64)
        for name, value in right.items()
    )
    new = f * c + i * g
    hidden = o * np.tanh(new)
    _, layer, direction = cell.split(".")
    suffix = f"l{layer.removeprefix('layer')}" + ("_reverse" if direction == "reverse" else "")
    projection = step.parameters.get(f"weight_hr_{suffix}")
    if projection is not None:
        hidden = hidden @ projection.astype(np.float64).T
    return {step.stage.name: np.concatenate([new, hidden], axis=-1)}


def _described(
    chain: list[Alone], found: Alone, part: Stage | None, known: str, checked: Alone | None = None
) -> Row:
    """The row, with a note of the place, the error and its size."""
    stage, found = part or found.stage, checked or found
    failing = found.failure
    assert failing is not None
    t = _time(found)
    place = stage.words.format(t="" if t is None else f", t = {t}")
    what = "" if found.place.check == "forward" else f"gradient of {failing.name}, "
    size = failing.note or (
        f"{failing.distance:.3g} off ({failing.ulp(failing.distance):.3g} ULP), allowed "
        f"{failing.bound:.3g} ({failing.ulp(failing.bound):.3g} ULP)"
    )
    return replace(
        failing,
        name=stage.name,
        note=f"{place}: {known or match.UNKNOWN}; {what}{size}",
    )


def _time(found: Alone) -> int | None:
    """The first wrong time step in order of computation; None if no wrong array has steps."""
    latest_first = found.stage.backwards != (found.place.check == "gradients")
    for row in found.judged.rows:
        truth, given = (side.get(row.name) for side in (found.judged.truth, found.judged.candidate))
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
