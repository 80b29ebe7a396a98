"""The table of layer kinds: which torch tensor is which Flax variable, for every kind of layer.

This table alone decides what is transposed; shapes are never used to guess. A subclass of a kind
belongs to the same kind. `register_layer` adds a kind for the user's layer.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from flax import nnx

from flax_bilstm import arguments
from flax_bilstm.cell import LSTMCell
from flax_bilstm.conversion import transforms
from flax_bilstm.conversion.entries import (
    BIAS,
    KERNEL,
    RECURRENT,
    SCALE,
    Entry,
    Kind,
    attention_heads,
    entry,
    flax_bidirectional,
    flax_rnn,
    linear_general,
    lstm,
    plain,
    transposed_convolution,
)
from flax_bilstm.conversion.transforms import SCALAR, TRANSPOSED, Transform
from flax_bilstm.lstm import LSTM
from flax_bilstm.network import Attention, BiLSTMWithAttention


def _network(network: Any) -> Iterator[Entry]:
    """The parts in torch's order, which is also that of an optimizer's state without names."""
    for part, kind in (("lstm", LSTM), ("attention", Attention), ("fc", nnx.Linear)):
        for each in KINDS[kind].entries(getattr(network, part, None)):
            yield each._replace(
                tensors=tuple(f"{part}.{name}" for name in each.tensors),
                variables=tuple(f"{part}.{path}" for path in each.variables),
            )


KINDS: dict[type, Kind] = {
    LSTM: Kind("nn.LSTM", lstm, lambda lstm: 2),
    LSTMCell: plain("nn.LSTMCell", *(entry(*row) for row in RECURRENT), rank=2),
    nnx.RNN: Kind("nn.LSTM of one layer", flax_rnn, lambda rnn: 2),
    nnx.Bidirectional: Kind("nn.LSTM of one layer, both ways", flax_bidirectional, lambda both: 2),
    Attention: plain(
        "the reference's Attention",
        entry("attn.weight", "attn.kernel", TRANSPOSED),
        entry("attn.bias", "attn.bias"),
        rank=2,
    ),
    BiLSTMWithAttention: Kind("the reference network", _network, lambda network: 2),
    nnx.Linear: plain("nn.Linear", KERNEL, BIAS, rank=2),
    nnx.LinearGeneral: Kind(
        "nn.Linear, axes merged",
        linear_general,
        lambda linear: len(linear.in_features) + len(linear.out_features),
    ),
    nnx.Embed: plain("nn.Embedding", entry("weight", "embedding"), rank=2),
    nnx.LayerNorm: plain("nn.LayerNorm", SCALE, BIAS),
    nnx.RMSNorm: plain("nn.RMSNorm", SCALE),
    nnx.GroupNorm: plain("nn.GroupNorm", SCALE, BIAS),
    nnx.InstanceNorm: plain("nn.InstanceNorm1d, 2d, 3d with affine=True", SCALE, BIAS),
    nnx.BatchNorm: plain(
        "nn.BatchNorm1d, 2d, 3d, SyncBatchNorm",
        SCALE,
        BIAS,
        entry("running_mean", "mean"),
        entry("running_var", "var"),
        Entry(
            ("num_batches_tracked",),
            ("num_batches_tracked",),
            transforms.COUNT,
            default=np.zeros((), np.int32),
        ),
    ),
    nnx.Conv: Kind(
        "nn.Conv1d, 2d, 3d",
        lambda conv: (entry("weight", "kernel", transforms.CONVOLUTION), BIAS),
        lambda conv: len(conv.kernel_size) + 2,
    ),
    nnx.ConvTranspose: Kind(
        "nn.ConvTranspose1d, 2d, 3d with groups=1",
        transposed_convolution,
        lambda conv: len(conv.kernel_size) + 2,
    ),
    nnx.MultiHeadAttention: Kind("nn.MultiheadAttention", attention_heads, lambda attention: 3),
    nnx.PReLU: plain(
        "nn.PReLU with num_parameters=1", entry("weight", "negative_slope", SCALAR), rank=0
    ),
}

_ONE_BIAS = "it has one bias where torch has two: name it by fb.SummedBiases, or use "

FLAX_WITHOUT: dict[type, str] = {
    nnx.LSTMCell: f"{_ONE_BIAS}fb.LSTMCell",
    nnx.OptimizedLSTMCell: f"{_ONE_BIAS}fb.LSTMCell",
    nnx.SimpleCell: f"{_ONE_BIAS}nnx.Params of your own",
    nnx.GRUCell: "it lacks nn.GRU's bias of the new gate's hidden part, which reset multiplies",
    nnx.Einsum: "torch has no such layer: register one for your equation",
    nnx.LoRA: "torch has no such layer: register one for your library's",
    nnx.LoRALinear: "torch has no such layer: register one for your library's",
    nnx.SpectralNorm: "it has other statistics than torch's: load the weight into the layer alone",
    nnx.WeightNorm: "its scales are no variables: load the weight into the layer alone",
}
"""Layers of Flax that are not in the table, and why. Their variables are treated as any others."""

TORCH_WITHOUT: dict[str, str] = {
    "nn.GRU, GRUCell": "Flax's has another bias; write your own with an nnx.Param for each tensor",
    "nn.RNN, RNNCell": "Flax's has one bias, see nnx.SimpleCell",
    "nn.Bilinear, EmbeddingBag": "Flax has none; in a port of one, an nnx.Param for each tensor",
    "nn.Transformer…Layer": "Flax has none; a port of its parts, by their names in torch, loads",
    "nn.MultiheadAttention with add_bias_kv, or kdim ≠ vdim": "nnx.MultiHeadAttention has neither",
    "nn.LayerNorm, RMSNorm over several axes": "Flax's weights are vectors; use an nnx.Param",
    "nn.PReLU of several channels": "nnx.PReLU has one slope; use an nnx.Param called weight",
    "nn.ConvTranspose1d, 2d, 3d of groups": "nnx.ConvTranspose has no groups",
    "nn.InstanceNorm1d, 2d, 3d with running statistics": "nnx.InstanceNorm has none",
    "nn.AdaptiveLogSoftmaxWithLoss, CrossEntropyLoss(weight=)": "losses: name them in ignore=",
}
"""Layers of torch that are not in the table, and why."""


def kind_of(module: Any) -> Kind | None:
    """The kind of a module: that of its class, or of the nearest class that it inherits from."""
    return next((KINDS[cls] for cls in type(module).__mro__ if cls in KINDS), None)


def register_layer(
    layer: type[nnx.Module],
    rows: Sequence[tuple[str, str, Transform]],
    *,
    torch: str = "",
    rank: int | None = None,
) -> None:
    """Add a kind of layer to the table, or replace one.

    Args:
        layer: the Flax class; its subclasses are of the same kind.
        rows: for each tensor its torch name, the Flax variable's path inside the module, and a
            transform: `fb.conversion.SAME`, `TRANSPOSED`, or
            `fb.conversion.each(to_torch, from_torch)` with two functions of one NumPy array that
            are inverse to each other. It is applied to an optimizer's moments too, so it may only
            move or scale elements.
        torch: the name of torch's class, for messages.
        rank: the rank of the first row's variable, for modules that `nnx.vmap` may stack; with None
            modules are never treated as stacked.

    Raises:
        TypeError: layer is not a class of modules, or a row is not of that form.
    """
    if not (isinstance(layer, type) and issubclass(layer, nnx.Module)):
        raise TypeError(f"layer: expected a class of nnx modules, got {arguments.quoted(layer)}.")
    arguments.of_kind("torch", torch, str, "the name of torch's class")
    if rank is not None:
        arguments.of_kind("rank", rank, int, "the rank of a variable, or None")
    entries = _entries(rows)
    KINDS[layer] = Kind(torch, lambda module: entries, lambda module: -1 if rank is None else rank)


def _entries(rows: Sequence[Any]) -> tuple[Entry, ...]:
    """The entries of a user's rows.

    Raises:
        TypeError: a row is not a torch name, a Flax path and a transform.
    """
    for row in arguments.of_kind("rows", rows, (list, tuple), "a list of rows"):
        kinds = tuple(map(type, row)) if isinstance(row, (tuple, list)) else ()
        if kinds != (str, str, Transform):
            raise TypeError(
                "rows: expected (torch name, Flax path, transform) for each tensor, the transform "
                f"from flax_bilstm.conversion, got {arguments.quoted(row)}."
            )
    return tuple(entry(*row) for row in rows)
