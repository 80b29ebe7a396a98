"""What a network of the list is: a PyTorch class, its Flax port, and how they are called."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx


class Network(NamedTuple):
    """A network as people write it, and its port.

    Attributes:
        torch: makes the PyTorch module.
        flax: makes the Flax module from rngs.
        inputs: what both are called with.
        names: Flax path → torch path of what is called otherwise.
        ignore: patterns of tensors without a counterpart.
    """

    torch: Any
    flax: Any
    inputs: tuple[np.ndarray, ...]
    names: Mapping[str, Any] = {}
    ignore: tuple[str, ...] = ()


rng = np.random.default_rng(0)


def tokens(vocabulary: int, *shape: int) -> np.ndarray:
    """Random tokens below `vocabulary`."""
    return rng.integers(0, vocabulary, shape)


def signal(*shape: int) -> np.ndarray:
    """Random numbers of a standard normal's size."""
    return rng.standard_normal(shape)


def in_float64(module: nnx.Module) -> nnx.Module:
    """The module with parameters in float64, and layers that compute in their inputs' dtype."""
    graph, state = nnx.split(module)
    state = jax.tree.map(lambda a: a.astype("float64") if a.dtype == "float32" else a, state)
    module = nnx.merge(graph, state)
    for _, layer in nnx.iter_modules(module):
        if isinstance(layer, (nnx.Embed, nnx.LinearGeneral)):
            layer.dtype = None
    return module


def attend(query: Any, key: Any, value: Any, **_: Any) -> jax.Array:
    """Scaled dot-product attention in the arrays' own dtype; JAX's takes its softmax in float32."""
    scores = jax.numpy.einsum("...qhd,...khd->...hqk", query, key) / np.sqrt(query.shape[-1])
    return jax.numpy.einsum("...hqk,...khd->...qhd", jax.nn.softmax(scores), value)
