"""Flax's recurrent cells, which have one bias where torch has two: converted only on request."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from flax_bilstm.conversion.entries import Entry
from flax_bilstm.conversion.transforms import SAME, TRANSPOSED, Arrays, Transform, concatenated


class SummedBiases(NamedTuple):
    """In `names`: a Flax cell with one bias, which gets the sum of torch's two biases.

    The forward pass is the same. Training is not: a step changes the sum of PyTorch's two biases
    twice as much. On the way back `bias_ih` gets the sum and `bias_hh` zeros, so it is not
    bit-exact.

    Attributes:
        path: the torch path of the nn.LSTM, nn.LSTMCell, nn.RNN or nn.RNNCell.
        suffix: the end of its tensors' names: "_l0" or "_l0_reverse" for an nn.LSTM, "" for a cell.
    """

    path: str
    suffix: str = ""


def _summed(one: Transform) -> Transform:
    """Flax's one bias ↔ torch's two, of which the second is zero on the way back."""

    def to_torch(leaves: Arrays) -> Arrays:
        (bias,) = one.to_torch(leaves)
        return [bias, np.zeros_like(bias)]

    return Transform(
        to_torch, lambda tensors: one.from_torch([tensors[0] + tensors[1]]), exact=False
    )


_BIASES = ("bias_ih", "bias_hh")
_CELLS: dict[type, tuple[Entry, ...]] = {
    nnx.OptimizedLSTMCell: (
        Entry(("weight_ih",), ("dense_i.kernel",), TRANSPOSED),
        Entry(("weight_hh",), ("dense_h.kernel",), TRANSPOSED),
        Entry(_BIASES, ("dense_h.bias",), _summed(SAME)),
    ),
    nnx.LSTMCell: (
        Entry(
            ("weight_ih",),
            ("ii.kernel", "if_.kernel", "ig.kernel", "io.kernel"),
            concatenated([TRANSPOSED] * 4),
        ),
        Entry(
            ("weight_hh",),
            ("hi.kernel", "hf.kernel", "hg.kernel", "ho.kernel"),
            concatenated([TRANSPOSED] * 4),
        ),
        Entry(
            _BIASES,
            ("hi.bias", "hf.bias", "hg.bias", "ho.bias"),
            _summed(concatenated([SAME] * 4)),
        ),
    ),
    nnx.SimpleCell: (
        Entry(("weight_ih",), ("dense_i.kernel",), TRANSPOSED),
        Entry(("weight_hh",), ("dense_h.kernel",), TRANSPOSED),
        Entry(_BIASES, ("dense_i.bias",), _summed(SAME)),
    ),
}


def entries(cell: Any, path: str, suffix: str) -> Iterator[Entry]:
    """The entries of one of Flax's cells.

    Raises:
        ValueError: the module at the Flax path is not such a cell.
    """
    found = next((_CELLS[cls] for cls in type(cell).__mro__ if cls in _CELLS), None)
    if found is None:
        known = ", ".join(f"nnx.{kind.__name__}" for kind in _CELLS)
        raise ValueError(
            f"names: expected one of {known} at {path}, which SummedBiases is for, got "
            f"{type(cell).__name__}."
        )
    for each in found:
        yield each._replace(tensors=tuple(f"{tensor}{suffix}" for tensor in each.tensors))
