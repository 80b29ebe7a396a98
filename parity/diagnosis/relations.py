"""How the numbers of a wrong stage are related to right ones, whatever computes them."""

import numpy as np

from parity.diagnosis.mistakes import arrays
from parity.distance import Value
from parity.judge import Judged
from parity.results import Row
from parity.sides.side import Arrays

OVERFLOWING = np.errstate(over="ignore", invalid="ignore")
"""A mistake may add the largest numbers of a dtype, as masks have them."""


@OVERFLOWING
def of_arrays(judged: Judged, parameters: Arrays | None = None) -> str:
    """How the wrong arrays of a stage are related to the right ones; "" if no relation is known.

    If there are `parameters`, a wrong array may also differ from the right one by a parameter.
    """
    for row in judged.rows:
        if not row.failed or not np.isfinite(row.distance):
            continue
        truth, given = judged.truth[row.name], judged.candidate[row.name]
        if truth is not None and given is not None and not any_complex(truth, given):
            words = _related(truth, given, row) or _by_parameter(
                truth, given, row, parameters or {}
            )
            if words:
                return words if row is judged.failure else f"at {row.name}, {words}"
    return ""


def any_complex(*arrays: Value) -> bool:
    """Whether one of them is complex: no known mistake is one of complex numbers."""
    return any(array is not None and array.dtype.kind == "c" for array in arrays)


def of_stage(row: Row, given: Value, values: Arrays) -> str:
    """What the stage holds that it should hold elsewhere, or not at all; "" if it is unknown.

    Args:
        row: the row that fails.
        given: what the candidate has there.
        values: the reference's stages.
    """
    if given is None or row.check == "gradients":
        return ""
    return _in_padding(row, given, values.get(row.name)) or _another(row, given, values)


def _in_padding(row: Row, given: np.ndarray, truth: Value) -> str:
    """Words if the stage has numbers in padding, where the reference has zeros; else ""."""
    if truth is None or truth.ndim != 3 or given.shape != truth.shape:
        return ""
    differs = (np.abs(given - truth) > row.bound).any(-1)
    filled = np.asarray(truth.any(-1))
    padding = ~np.logical_or.accumulate(filled[:, ::-1], 1)[:, ::-1]
    if not differs.any() or (differs & ~padding).any():
        return ""
    return "it has numbers in the padding: lengths are not read, or too late"


def _another(row: Row, given: np.ndarray, values: Arrays) -> str:
    """Words if the stage holds the right value of another stage; else ""."""
    for name, array in values.items():
        if name == row.name or not array.size:
            continue
        taken = {"it is {}": array}
        if array.ndim > 1:
            taken |= {
                "it is the first step of {}": array[:, 0],
                "it is the last step of {}": array[:, -1],
                "it is the mean of {} over its second axis": array.mean(1),
                "it is the sum of {} over its second axis": array.sum(1),
                "it is the largest of {} over its second axis": array.max(1),
            }  # fmt: skip
        for words, other in taken.items():
            if other.shape == given.shape and _near(other, given, row):
                return words.format(name)
    return ""


def _related(truth: np.ndarray, given: np.ndarray, row: Row) -> str:
    for relation in arrays.RELATIONS:
        try:
            words, array = relation(truth, given.astype(np.float64))
        except (ValueError, IndexError):  # it has no such axis
            continue
        if array.shape == given.shape and _near(array, given, row):
            return words
    return ""


def _near(array: np.ndarray, given: np.ndarray, row: Row) -> bool:
    """Whether both agree; to be near an array that is not determined shows nothing."""
    return row.determined and bool(np.max(np.abs(array - given)) <= row.bound)


def _by_parameter(truth: np.ndarray, given: np.ndarray, row: Row, parameters: Arrays) -> str:
    """Words if a parameter was added to the last axes by mistake, or left out there; else ""."""
    if given.shape != truth.shape or row.check == "gradients":
        return ""
    for name, array in parameters.items():
        if not array.ndim or array.shape != truth.shape[truth.ndim - array.ndim :]:
            continue
        for words, sign in (("{} is missing", -1), ("{} is added once more", 1)):
            if _near(truth + sign * array.astype(np.float64), given, row):
                return words.format(name)
    return ""
