"""Recognizing modules in a torch state dict, from the names and shapes of its tensors.

If the shapes fit several kinds, all are listed: a matrix without bias is an embedding or a Linear.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

Shapes = Mapping[str, tuple[int, ...]]
"""The tensors directly in a module: name inside the module → shape."""

CLASSES = {4: "LSTM", 3: "GRU", 1: "RNN"}
"""Rows of a recurrent weight, as multiples of the hidden size → the class in torch.nn."""


class Recognized(NamedTuple):
    """A torch module in a state dict.

    Attributes:
        path: its torch path.
        kinds: the torch classes that it can be, the likeliest first; empty for raw tensors.
        sizes: the arguments that follow from the shapes.
        tensors: the names of its tensors, inside the module.
    """

    path: str
    kinds: tuple[str, ...]
    sizes: dict[str, Any]
    tensors: tuple[str, ...]


def recognize(arrays: Mapping[str, np.ndarray]) -> list[Recognized]:
    """Every layer of the state dict, in the order of its first tensor; other tensors one by one.

    A module that contains modules is not a layer: its tensors are raw ones.
    """
    owners: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, array in arrays.items():
        owner, _, tensor = name.rpartition(".")
        if owner.endswith(".out_proj") or owner == "out_proj":  # a part of nn.MultiheadAttention
            outer = owner.rpartition(".")[0]
            if any(f"{outer}.{part}".lstrip(".") in arrays for part in _ATTENTION):
                owner, tensor = outer, f"out_proj.{tensor}"
        owners.setdefault(owner, {})[tensor] = tuple(array.shape)
    around = {owner[:i] for owner in owners for i, c in enumerate(owner) if c == "."}
    if len(owners) > 1:
        around.add("")
    return [
        found
        for owner, shapes in owners.items()
        for found in (_raw(owner, shapes) if owner in around else _layer(owner, shapes))
    ]


def _raw(path: str, shapes: Shapes) -> Iterator[Recognized]:
    return (Recognized(path, (), {}, (tensor,)) for tensor in shapes)


_ATTENTION = ("in_proj_weight", "q_proj_weight")


def _layer(path: str, shapes: Shapes) -> Iterator[Recognized]:
    """The layer that has exactly these tensors; otherwise each tensor separately."""
    for rule in (_recurrent, _cell, _attention, _norm_with_statistics, _matrix, _vector, _kernel):
        if (kind := rule(path, shapes)) is not None:
            kinds, sizes = kind
            yield Recognized(path, kinds, sizes, tuple(shapes))
            return
    yield from _raw(path, shapes)


Kind = tuple[tuple[str, ...], dict[str, Any]] | None


def _recurrent(path: str, shapes: Shapes) -> Kind:
    """nn.LSTM, nn.GRU, nn.RNN."""
    ih, hh = shapes.get("weight_ih_l0", ()), shapes.get("weight_hh_l0", ())
    if len(ih) != 2 or len(hh) != 2 or ih[0] != hh[0] or not hh[1]:
        return None
    projection = shapes.get("weight_hr_l0", ())
    hidden = projection[1] if len(projection) == 2 else hh[1]
    gates = ih[0] // hidden if hidden and ih[0] % hidden == 0 else 0
    layers = 1
    while f"weight_ih_l{layers}" in shapes:
        layers += 1
    both, bias = "weight_ih_l0_reverse" in shapes, "bias_ih_l0" in shapes
    out = hh[1] * (2 if both else 1)
    want: dict[str, tuple[int, ...]] = {}
    for k in range(layers):
        for suffix in ("", "_reverse")[: 1 + both]:
            want[f"weight_ih_l{k}{suffix}"] = (ih[0], ih[1] if k == 0 else out)
            want[f"weight_hh_l{k}{suffix}"] = hh
            if bias:
                want[f"bias_ih_l{k}{suffix}"] = want[f"bias_hh_l{k}{suffix}"] = (ih[0],)
            if projection:
                want[f"weight_hr_l{k}{suffix}"] = tuple(projection)
    if gates not in CLASSES or dict(shapes) != want:
        return None
    sizes: dict[str, Any] = {"input_size": ih[1], "hidden_size": hidden}
    options = {"num_layers": (layers, 1), "bias": (bias, True), "bidirectional": (both, False)}
    options["proj_size"] = (projection[0] if projection else 0, 0)
    sizes |= {name: value for name, (value, usual) in options.items() if value != usual}
    return (CLASSES[gates],), sizes


def _cell(path: str, shapes: Shapes) -> Kind:
    """nn.LSTMCell, nn.GRUCell, nn.RNNCell."""
    ih, hh = shapes.get("weight_ih", ()), shapes.get("weight_hh", ())
    biases = {"bias_ih", "bias_hh"} & shapes.keys()
    if len(ih) != 2 or len(hh) != 2 or ih[0] != hh[0] or len(biases) == 1 or not hh[1]:
        return None
    if shapes.keys() - {"weight_ih", "weight_hh"} != biases or ih[0] % hh[1]:
        return None
    if ih[0] // hh[1] not in CLASSES or any(shapes[bias] != (ih[0],) for bias in biases):
        return None
    sizes: dict[str, Any] = {"input_size": ih[1], "hidden_size": hh[1]}
    return (f"{CLASSES[ih[0] // hh[1]]}Cell",), sizes if biases else sizes | {"bias": False}


def _attention(path: str, shapes: Shapes) -> Kind:
    """nn.MultiheadAttention; the number of heads cannot be seen in its tensors."""
    out = shapes.get("out_proj.weight", ())
    if len(out) != 2 or out[0] != out[1]:
        return None
    width = out[0]
    packed, apart = {"in_proj_weight"}, {"q_proj_weight", "k_proj_weight", "v_proj_weight"}
    weights = packed if "in_proj_weight" in shapes else apart
    bias = "in_proj_bias" in shapes
    names = {*weights, "out_proj.weight", *(("in_proj_bias", "out_proj.bias") if bias else ())}
    if shapes.keys() != names or any(len(shapes[name]) != 2 for name in weights):
        return None
    sizes: dict[str, Any] = {"embed_dim": width}
    if weights is apart:
        sizes |= {"kdim": shapes["k_proj_weight"][1], "vdim": shapes["v_proj_weight"][1]}
    elif shapes["in_proj_weight"] != (3 * width, width):
        return None
    return ("MultiheadAttention",), sizes if bias else sizes | {"bias": False}


def _norm_with_statistics(path: str, shapes: Shapes) -> Kind:
    if not shapes.keys() >= {"running_mean", "running_var"}:
        return None
    (features, *more) = shapes["running_mean"] or (0, 0)
    rest = shapes.keys() - {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    if more or rest or any(len(s) > 1 for s in shapes.values()):
        return None
    sizes: dict[str, Any] = {"num_features": features}
    return ("BatchNorm",), sizes if "weight" in shapes else sizes | {"affine": False}


def _matrix(path: str, shapes: Shapes) -> Kind:
    weight = shapes.get("weight", ())
    if len(weight) != 2:
        return None
    linear = {"in_features": weight[1], "out_features": weight[0]}
    if shapes.keys() == {"weight", "bias"} and shapes["bias"] == (weight[0],):
        return ("Linear",), linear
    if shapes.keys() != {"weight"}:
        return None
    name = path.rpartition(".")[2].lower()
    if any(part in name for part in ("emb", "wte", "wpe", "vocab", "lookup")):
        return ("Embedding", "Linear"), {"num_embeddings": weight[0], "embedding_dim": weight[1]}
    return ("Linear", "Embedding"), linear | {"bias": False}


def _vector(path: str, shapes: Shapes) -> Kind:
    weight = shapes.get("weight", ())
    if len(weight) != 1:
        return None
    if shapes.keys() == {"weight", "bias"} and shapes["bias"] == weight:
        return ("LayerNorm", "GroupNorm", "InstanceNorm"), {"features": weight[0]}
    if shapes.keys() != {"weight"}:
        return None
    if weight == (1,):
        return ("PReLU",), {}
    return ("RMSNorm", "LayerNorm", "PReLU"), {"features": weight[0]}


def _kernel(path: str, shapes: Shapes) -> Kind:
    weight = shapes.get("weight", ())
    if not 3 <= len(weight) <= 5 or not shapes.keys() <= {"weight", "bias"}:
        return None
    rank, bias = len(weight) - 2, shapes.get("bias")
    conv, transposed = f"Conv{rank}d", f"ConvTranspose{rank}d"
    sizes: dict[str, Any] = {
        "in_channels": weight[1],
        "out_channels": weight[0],
        "kernel_size": weight[2:],
    }
    if bias is None:
        return (conv, transposed), sizes | {"bias": False}
    if bias == (weight[0],):
        return ((conv, transposed) if weight[0] == weight[1] else (conv,)), sizes
    if bias == (weight[1],):
        return (transposed,), sizes | {"in_channels": weight[0], "out_channels": weight[1]}
    return None
