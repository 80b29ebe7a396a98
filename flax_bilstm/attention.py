"""Dot-product self-attention as pure functions, for every query or only the last one.

The reference computes softmax(y yᵀ) y for every step and then reads one of them. `last_query`
computes only that one: the same numbers, with O(time) work and memory instead of O(time²).
There is no scale and no projection; `kernel` makes it the "general" score of Luong et
al. 2015, section 3.1: score(query, key) = queryᵀ W key.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from flax_bilstm.recurrence.equations import accumulation_dtype, validity


def attend(
    queries: Float[Array, "batch queries features"],
    keys: Float[Array, "batch time features"],
    valid: Bool[Array, "batch 1 time"] | None,
    kernel: Float[Array, "features features"] | None,
) -> tuple[Float[Array, "batch queries features"], Float[Array, "batch queries time"]]:
    """softmax(queries · keys) keys over the valid keys, and the attention weights.

    A query without any valid key gets zero weights and a zero context, with finite gradients.
    """
    dtype, wide = keys.dtype, accumulation_dtype(keys.dtype)
    if kernel is not None:  # Flax layout: kernel = Wᵀ, so query W = query kernelᵀ
        queries = jnp.einsum("bqf,gf->bqg", queries, kernel, preferred_element_type=wide)
        queries = queries.astype(dtype)
    scores = jnp.einsum("bqf,btf->bqt", queries, keys, preferred_element_type=wide)
    if valid is None:
        weights = jax.nn.softmax(scores, axis=-1)
    else:
        weights = jax.nn.softmax(jnp.where(valid, scores, jnp.finfo(wide).min), axis=-1)
        weights = jnp.where(valid, weights, jnp.zeros_like(weights))
    weights = weights.astype(dtype)
    context = jnp.einsum("bqt,btf->bqf", weights, keys, preferred_element_type=wide)
    return context.astype(dtype), weights


def all_queries(
    y: Float[Array, "batch time features"],
    lengths: Int[Array, " batch"] | None = None,
    kernel: Float[Array, "features features"] | None = None,
) -> tuple[Float[Array, "batch time features"], Float[Array, "batch time time"]]:
    """Attention of every step over every step; padded steps get 0 and are given no weight."""
    if lengths is None:
        return attend(y, y, None, kernel)
    valid = jnp.moveaxis(validity(lengths, y.shape[1]), 0, 1)  # (batch, time, 1)
    y = jnp.where(valid, y, jnp.zeros_like(y))
    context, weights = attend(y, y, jnp.swapaxes(valid, 1, 2), kernel)
    return (
        jnp.where(valid, context, jnp.zeros_like(context)),
        jnp.where(valid, weights, jnp.zeros_like(weights)),
    )


def last_query(
    y: Float[Array, "batch time features"],
    lengths: Int[Array, " batch"] | None = None,
    kernel: Float[Array, "features features"] | None = None,
) -> tuple[Float[Array, "batch features"], Float[Array, "batch time"]]:
    """Attention of each sequence's last step over its valid steps: `all_queries` at that step."""
    if lengths is None:
        context, weights = attend(y[:, -1:], y, None, kernel)
    else:
        time = y.shape[1]
        valid = jnp.moveaxis(validity(lengths, time), 0, 1)  # (batch, time, 1)
        y = jnp.where(valid, y, jnp.zeros_like(y))
        last = jnp.maximum(lengths - 1, 0)
        queries = jnp.take_along_axis(y, last[:, None, None], axis=1)  # (batch, 1, features)
        context, weights = attend(queries, y, jnp.swapaxes(valid, 1, 2), kernel)
    return context[:, 0], weights[:, 0]
