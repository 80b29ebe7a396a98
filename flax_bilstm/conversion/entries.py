"""Entries of the table of layer kinds: which torch tensor is which Flax variable.

The functions are of the kinds whose entries depend on the module.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from flax_bilstm.cell import LSTMCell
from flax_bilstm.conversion import transforms
from flax_bilstm.conversion.transforms import SAME, TRANSPOSED, Transform


class Entry(NamedTuple):
    """Tensors of one torch module ↔ variables of one Flax module, both by dotted path.

    An entry whose first variable is None in the module (a layer without bias) does not apply,
    unless it has a default. The default is for a variable that Flax's layer lacks: its value in a
    new module. Loading adds such a variable, an `fb.Unused`.
    """

    tensors: tuple[str, ...]
    variables: tuple[str, ...]
    transform: Transform
    default: np.ndarray | None = None


Entries = Iterable[Entry]


class Kind(NamedTuple):
    """One kind of layer.

    Attributes:
        torch: the name of torch's class, for documents.
        entries: the module → its entries, in the order of torch's state dict.
        rank: the module → the rank of its first entry's first variable. If it has one axis more,
            several modules were stacked, by `nnx.vmap` for instance.
    """

    torch: str
    entries: Callable[[Any], Entries]
    rank: Callable[[Any], int]


def entry(tensor: str, variable: str, transform: Transform = SAME) -> Entry:
    """One tensor ↔ one variable."""
    return Entry((tensor,), (variable,), transform)


def plain(torch: str, *entries: Entry, rank: int = 1) -> Kind:
    """A kind whose entries and rank are the same for every module."""
    return Kind(torch, lambda module: entries, lambda module: rank)


KERNEL = entry("weight", "kernel", TRANSPOSED)
SCALE = entry("weight", "scale")
BIAS = entry("bias", "bias")

DIRECTIONS = (("", "forward"), ("_reverse", "reverse"))
"""torch's suffix for a direction, and the direction's name in the layers of `fb.LSTM`."""

RECURRENT = (
    ("weight_ih", "kernel_ih", TRANSPOSED),
    ("weight_hh", "kernel_hh", TRANSPOSED),
    ("bias_ih", "bias_ih", SAME),
    ("bias_hh", "bias_hh", SAME),
    ("weight_hr", "kernel_hr", TRANSPOSED),
)
"""One direction of one layer, or a cell: torch's names, this library's, the transform."""


def lstm(lstm: Any) -> Iterator[Entry]:
    """For an `fb.LSTM`, or any object with its `num_layers` and `num_directions`."""
    for k in range(lstm.num_layers):
        for suffix, direction in DIRECTIONS[: lstm.num_directions]:
            for tensor, variable, transform in RECURRENT:
                path = f"layers.{k}.{direction}.{variable}"
                yield entry(f"{tensor}_l{k}{suffix}", path, transform)


def flax_rnn(rnn: Any) -> Iterator[Entry]:
    """For an `nnx.RNN` that runs an `fb.LSTMCell`."""
    return _run_by(rnn, "", "")


def flax_bidirectional(both: Any) -> Iterator[Entry]:
    """For an `nnx.Bidirectional` of two such `nnx.RNN`s."""
    yield from _run_by(both.forward_rnn, "forward_rnn.", "")
    yield from _run_by(both.backward_rnn, "backward_rnn.", "_reverse")


def _run_by(rnn: Any, path: str, suffix: str) -> Iterator[Entry]:
    if isinstance(getattr(rnn, "cell", None), LSTMCell):
        for tensor, variable, transform in RECURRENT:
            yield entry(f"{tensor}_l0{suffix}", f"{path}cell.{variable}", transform)


def transposed_convolution(conv: Any) -> Entries:
    """For an `nnx.ConvTranspose`, whose `transpose_kernel` gives the layout of `nnx.Conv`'s."""
    kernel = transforms.CONVOLUTION if conv.transpose_kernel else transforms.TRANSPOSED_CONVOLUTION
    return entry("weight", "kernel", kernel), BIAS


def linear_general(linear: Any) -> Iterator[Entry]:
    """For an `nnx.LinearGeneral`: torch's matrix has its axes joined."""
    inputs, outputs = linear.in_features, linear.out_features
    yield entry("weight", "kernel", transforms.matrix(inputs, outputs))
    yield entry("bias", "bias", transforms.reshaped(outputs, (math.prod(outputs),)))


def attention_heads(attention: Any) -> Iterator[Entry]:
    """torch packs the three input projections into one tensor if their widths are equal."""
    parts = ("query", "key", "value")
    layers = [getattr(attention, part) for part in parts]
    kernels = [transforms.matrix(layer.in_features, layer.out_features) for layer in layers]
    if len({layer.in_features for layer in layers}) == 1:
        packed = tuple(f"{part}.kernel" for part in parts)
        yield Entry(("in_proj_weight",), packed, transforms.concatenated(kernels))
    else:
        for letter, part, kernel in zip("qkv", parts, kernels, strict=True):
            yield entry(f"{letter}_proj_weight", f"{part}.kernel", kernel)
    shapes = [layer.out_features for layer in layers]
    biases = [transforms.reshaped(shape, (math.prod(shape),)) for shape in shapes]
    packed = tuple(f"{part}.bias" for part in parts)
    yield Entry(("in_proj_bias",), packed, transforms.concatenated(biases))
    out = attention.out
    output = transforms.matrix(out.in_features, out.out_features)
    yield entry("out_proj.weight", "out.kernel", output)
    yield entry("out_proj.bias", "out.bias")
