"""Variables that the candidate has and the reference has not: refused if its output needs them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from flax import nnx

from flax_bilstm.conversion.rows import Row, variables
from flax_bilstm.conversion.tree import dotted
from parity.sides.nnx_side import NnxSide
from parity.sides.paired import Tensors
from parity.sides.side import Arrays
from parity.tolerances import TRUTH


def notes(
    tensors: Tensors, candidate: NnxSide, model: nnx.Module, call: Any, inputs: Arrays
) -> Iterator[str]:
    """A note on variables that evaluation mode does not use; an error if it uses any.

    Args:
        tensors: the tensors that are paired, and the variables that are not.
        candidate: the candidate.
        model: its module.
        call: how to call it.
        inputs: what it reads.
    """
    if not tensors.spare:
        return
    moved = NnxSide(_with_other(model, tensors.spare), tensors.rows, call)
    if _differ(candidate, moved, inputs):
        tensors.refuse()
    unused = ", ".join(dotted(path) for row in tensors.spare for path in row.paths)
    what = "in flax_model only, where evaluation mode does not use it"
    yield f"{what}: {unused}; delete it there, if training mode does not either"


def _with_other(flax_model: nnx.Module, spare: Sequence[Row]) -> nnx.Module:
    """A copy of the module in which the variables of these rows have other values."""
    other = nnx.clone(flax_model)
    held = variables(other)
    for path in (path for row in spare for path in row.paths):
        own = held[path][...]  # by other numbers each: a softmax does not see a shift
        held[path][...] = own + 1 + np.arange(own.size, dtype=own.dtype).reshape(own.shape)
    return other


def _differ(candidate: NnxSide, moved: NnxSide, inputs: Arrays) -> bool:
    """Whether the outputs differ. Unknown, so False, if the candidate raises an error."""
    try:
        one = candidate.forward(candidate.parameters, inputs, TRUTH)
    except Exception:  # the check raises the same error, and makes a row of it
        return False
    other = moved.forward(moved.parameters, inputs, TRUTH)
    return any(not np.array_equal(one[n], value, equal_nan=True) for n, value in other.items())
