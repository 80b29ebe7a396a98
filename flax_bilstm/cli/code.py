"""`flax-bilstm inspect --code`: a Flax module that loads the file, its `__call__` to be written."""

import keyword
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from flax_bilstm.conversion.recognize import Recognized, recognize

_CALL = """\
    def __call__(self, x):
        raise NotImplementedError("write the forward pass of the PyTorch module here")
"""


def code_of(arrays: Mapping[str, np.ndarray]) -> str:
    """Python code of a module `Network(rngs)`, whose `load_state_dict` takes exactly these tensors.

    Every torch module is an attribute of the same name. A module that has others inside is a class;
    numbered ones are an nnx.List, or an nnx.Dict where numbers are missing.
    """
    tree: dict[str, Any] = {}
    for found in recognize(arrays):
        whole = bool(found.kinds)
        for tensor in () if whole else found.tensors:
            _place(tree, f"{found.path}.{tensor}".lstrip("."), _raw(arrays, found.path, tensor))
        if whole:
            _place(tree, found.path, _layer(found, arrays))
    classes: list[str] = []
    if "" in tree:  # the file is of one layer
        return f"{_HEAD}\n\ndef Network(rngs):\n    return {tree['']}\n"
    _class("Network", tree, classes)
    return "\n\n".join([_HEAD, *classes])


_HEAD = """\
import jax.numpy as jnp
import numpy as np
from flax import nnx

import flax_bilstm as fb
"""


def _place(tree: dict[str, Any], path: str, value: str) -> None:
    *owners, name = path.split(".")
    for owner in owners:
        inside = tree.setdefault(owner, {})
        if isinstance(inside, str):  # a layer that has a module inside: keep its own tensors apart
            raise ValueError(
                f"{path}: expected a module around it, got a layer of its own tensors."
            )
        tree = inside
    tree[name] = value


def _class(name: str, tree: Mapping[str, Any], classes: list[str]) -> None:
    """The class of a module with these attributes, after those of the modules inside."""
    lines = [f"self.{key} = {_value(key, inside, classes)}" for key, inside in _named(tree)]
    odd = [
        f"setattr(self, {key!r}, {_value(key, inside, classes)})"
        for key, inside in tree.items()
        if not _plain(key)
    ]
    body = "\n".join(f"        {line}" for line in [*lines, *odd])
    classes.append(f"class {name}(nnx.Module):\n    def __init__(self, rngs):\n{body}\n\n{_CALL}")


def _named(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((key, inside) for key, inside in tree.items() if _plain(key))


def _plain(key: str) -> bool:
    return key.isidentifier() and not keyword.iskeyword(key)


def _value(key: str, inside: Any, classes: list[str]) -> str:
    """What an attribute is made of: a layer's constructor, a container, or a class of its own."""
    if isinstance(inside, str):
        return inside
    if all(name.isdigit() for name in inside):
        items = [_value(f"{key}{name}", each, classes) for name, each in inside.items()]
        if sorted(map(int, inside)) == list(range(len(inside))):
            ordered = [items[list(inside).index(str(i))] for i in range(len(inside))]
            return f"nnx.List([{', '.join(ordered)}])"
        pairs = ", ".join(f"{name!r}: {item}" for name, item in zip(inside, items, strict=True))
        return f"nnx.Dict({{{pairs}}})"
    name = "".join(part.capitalize() for part in "".join(_letters(key)).split("_")) or "Part"
    taken = {
        line.split()[1].partition("(")[0] for each in classes for line in each.splitlines()[:1]
    }
    base, count = name, 2
    while name in taken or name == "Network":
        name, count = f"{base}{count}", count + 1
    _class(name, inside, classes)
    return f"{name}(rngs)"


def _letters(key: str) -> Iterator[str]:
    yield from (c if c.isalnum() else "_" for c in (key if not key[:1].isdigit() else f"_{key}"))


def _raw(arrays: Mapping[str, np.ndarray], path: str, tensor: str) -> str:
    """A tensor that is no layer's: a parameter, or a buffer where it is not of floating numbers."""
    array = arrays[f"{path}.{tensor}".lstrip(".")]
    if jnp.issubdtype(array.dtype, jnp.floating):
        return f"nnx.Param(jnp.zeros({array.shape}, jnp.{array.dtype.name}))"
    return f"nnx.Variable(np.zeros({array.shape}, np.{array.dtype.name}))"


def _layer(found: Recognized, arrays: Mapping[str, np.ndarray]) -> str:
    """The constructor of a recognized module."""
    first = arrays[f"{found.path}.{found.tensors[0]}".lstrip(".")].dtype.name
    options = "" if first == "float32" else f", param_dtype=jnp.{first}"
    options += ", rngs=rngs"
    sizes, kind = dict(found.sizes), found.kinds[0]
    if kind in ("LSTM", "LSTMCell"):
        shapes = [str(sizes.pop("input_size")), str(sizes.pop("hidden_size"))]
        rest = [f"{name}={value}" for name, value in sizes.items()]
        return f"fb.{kind}({', '.join([*shapes, *rest])}{options})"
    if kind in ("GRU", "RNN", "GRUCell", "RNNCell"):  # Flax has no exact counterpart
        items = (f"{t}={_raw(arrays, found.path, t)}" for t in found.tensors)
        return f"nnx.Dict({', '.join(items)})"
    return _FLAX[kind](sizes, found, options)


def _bias(sizes: Mapping[str, Any]) -> str:
    return "" if sizes.get("bias", True) else ", use_bias=False"


def _convolution(kind: str, sizes: Mapping[str, Any], options: str) -> str:
    window = tuple(sizes["kernel_size"])
    features = f"{sizes['in_channels']}, {sizes['out_channels']}, {window}"
    return f"nnx.{kind}({features}{_bias(sizes)}{options})"


def _heads(sizes: Mapping[str, Any], options: str) -> str:
    width = sizes["embed_dim"]
    inputs = f", in_kv_features={sizes['kdim']}" if "kdim" in sizes else ""
    heads = "1, "  # not in the file: write the number of heads here
    return f"nnx.MultiHeadAttention({heads}{width}{inputs}{_bias(sizes)}, decode=False{options})"


_FLAX: dict[str, Any] = {
    "Linear": lambda s, f, o: f"nnx.Linear({s['in_features']}, {s['out_features']}{_bias(s)}{o})",
    "Embedding": lambda s, f, o: f"nnx.Embed({s['num_embeddings']}, {s['embedding_dim']}{o})",
    "BatchNorm": lambda s, f, o: (
        f"nnx.BatchNorm({s['num_features']}"
        + ("" if s.get("affine", True) else ", use_bias=False, use_scale=False")
        + o
        + ")"
    ),
    "LayerNorm": lambda s, f, o: f"nnx.LayerNorm({s['features']}, epsilon=1e-5{o})",
    "RMSNorm": lambda s, f, o: f"nnx.RMSNorm({s['features']}{o})",
    "PReLU": lambda s, f, o: f"nnx.PReLU(0.25{o.removesuffix(', rngs=rngs')})",
    "MultiheadAttention": lambda s, f, o: _heads(s, o),
    **{f"Conv{n}d": lambda s, f, o: _convolution("Conv", s, o) for n in (1, 2, 3)},
    **{
        f"ConvTranspose{n}d": lambda s, f, o: _convolution("ConvTranspose", s, o) for n in (1, 2, 3)
    },
}
