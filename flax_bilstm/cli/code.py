"""`flax-bilstm inspect --code`: a Flax module that loads the file, its `__call__` to be written."""

import keyword
import re
from collections.abc import Mapping
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

    Every torch module is an attribute with the same name. A module that contains others is a class;
    numbered ones are an nnx.List, or an nnx.Dict if numbers are missing.
    """
    tree: dict[str, Any] = {}
    for found in recognize(arrays):
        if found.kinds and _has_equal(found, arrays):
            _place(tree, found.path, _layer(found, arrays))
            continue
        for tensor in found.tensors:
            _place(tree, f"{found.path}.{tensor}".lstrip("."), _raw(arrays, found.path, tensor))
    if "" in tree:  # the file contains only one layer
        return f"{_HEAD}\n\ndef Network(rngs):\n    return {tree['']}\n"
    classes: dict[str, str] = {"Network": ""}
    code = _class("Network", tree, classes)
    return "\n\n".join([_HEAD, *filter(None, classes.values()), code])


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
        if isinstance(inside, str):  # a layer that contains a module: separate the tensors
            raise ValueError(
                f"{path}: expected a module around it, got a layer of its own tensors."
            )
        tree = inside
    tree[name] = value


def _class(name: str, tree: Mapping[str, Any], classes: dict[str, str]) -> str:
    """The code of a module with these attributes; adds the classes inside it to `classes`."""
    values = {key: _value(key, inside, classes) for key, inside in tree.items()}
    lines = [f"self.{key} = {value}" for key, value in values.items() if _plain(key)]
    lines += [f"setattr(self, {key!r}, {v})" for key, v in values.items() if not _plain(key)]
    body = "\n".join(f"        {line}" for line in lines or ["pass"])
    return f"class {name}(nnx.Module):\n    def __init__(self, rngs):\n{body}\n\n{_CALL}"


def _plain(key: str) -> bool:
    """Whether an attribute's name can be written unchanged; Python renames `__key` in a class."""
    return key.isidentifier() and not keyword.iskeyword(key) and not key.startswith("__")


def _value(key: str, inside: Any, classes: dict[str, str]) -> str:
    """The value of an attribute: a layer's constructor, a container, or a class in `classes`."""
    if isinstance(inside, str):
        return inside
    if all(_index(name) for name in inside):
        items = {name: _value(f"{key}{name}", each, classes) for name, each in inside.items()}
        if set(items) == set(map(str, range(len(items)))):
            return f"nnx.List([{', '.join(items[str(i)] for i in range(len(items)))}])"
        pairs = ", ".join(f"{name!r}: {item}" for name, item in items.items())
        return f"nnx.Dict({{{pairs}}})"
    base = "".join(part[:1].upper() + part[1:] for part in re.split(r"[^0-9A-Za-z]+", key))
    base = base if base.isidentifier() and not keyword.iskeyword(base) else f"Part{base}"
    name = base if base not in classes else f"{base}_{len(classes)}"
    classes[name] = ""  # reserve the name, before those inside
    code = _class(name, inside, classes)
    del classes[name]  # moves behind those inside
    classes[name] = code
    return f"{name}(rngs)"


def _index(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _raw(arrays: Mapping[str, np.ndarray], path: str, tensor: str) -> str:
    """A tensor outside any layer: a parameter, or a buffer if its values rule that out."""
    array = arrays[f"{path}.{tensor}".lstrip(".")]
    if jnp.issubdtype(array.dtype, jnp.floating) and np.isfinite(array).all():
        return f"nnx.Param(jnp.zeros({array.shape}, jnp.{array.dtype.name}))"
    return f"nnx.Variable(np.zeros({array.shape}, jnp.{array.dtype.name}))"


def _has_equal(found: Recognized, arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether Flax has a layer with the same variables; otherwise the tensors are parameters."""
    kind, sizes = found.kinds[0], found.sizes
    if kind == "BatchNorm":  # Flax's statistics are always float32
        return all(
            arrays[f"{found.path}.{name}".lstrip(".")].dtype == np.float32
            for name in ("running_mean", "running_var")
        )
    if kind == "MultiheadAttention":  # Flax's keys and values have the same width
        return bool(sizes.get("kdim") == sizes.get("vdim"))
    return kind in _FLAX or kind in ("LSTM", "LSTMCell")


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
