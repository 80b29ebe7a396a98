"""`nnx.MultiHeadAttention` in float64, where its default function computes a softmax in float32.

`jax.nn.dot_product_attention`, which that function calls, does so for every dtype. The function has
another path, for attention weights that are stored, which computes in the dtype of its arguments.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

NOTE = (
    "nnx.MultiHeadAttention computes its softmax in float32; in float64 it was run with one in "
    "float64"
)


class _Nowhere:
    """Takes the weights that are to be stored."""

    def sow(self, *given: Any) -> None:
        """Store nothing."""


def in_its_dtype(query: jax.Array, *given: Any, **options: Any) -> jax.Array:
    """`nnx.dot_product_attention`, which takes its other path in float64."""
    if query.dtype == jnp.float64 and options.get("module") is None:
        options["module"] = _Nowhere()
    return nnx.dot_product_attention(query, *given, **options)


def by_default(module: Any) -> bool:
    """Whether it is a `nnx.MultiHeadAttention` with that function."""
    return (
        isinstance(module, nnx.MultiHeadAttention)
        and module.attention_fn is nnx.dot_product_attention
    )
