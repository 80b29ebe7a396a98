"""How `jax.vmap` runs the passes of a layer."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jaxtyping import Array


def merged(primitive: Primitive, weights_every: int, weights: int) -> Any:
    """Batch rule: merge a new axis into the batch; if the weights have it too, call one by one.

    The first four operands are not per direction. Then each direction has `weights_every` operands,
    of which the first `weights` are weights. The batch is axis 0 of `lengths`, otherwise axis 1.
    """

    def is_weight(k: int) -> bool:
        return k >= 4 and (k - 4) % weights_every < weights

    def rule(operands: Sequence[Array], axes: Sequence[Any], **options: Any) -> Any:
        size = next(
            operand.shape[axis]
            for operand, axis in zip(operands, axes, strict=True)
            if axis is not None
        )
        mapped = [axis is not None for axis in axes]
        if any(mapped[k] and is_weight(k) for k in range(len(operands))):
            first = [
                jnp.moveaxis(operand, axis, 0) if there else operand
                for operand, axis, there in zip(operands, axes, mapped, strict=True)
            ]

            def call(k: Array) -> list[Array]:
                return primitive.bind(
                    *(a[k] if there else a for a, there in zip(first, mapped, strict=True)),
                    **options,
                )

            results = jax.lax.map(call, jnp.arange(size))
            return results, [0] * len(results)

        def merge(k: int) -> Array:
            operand, at = operands[k], 0 if k == 2 else 1
            if is_weight(k):
                return operand
            if mapped[k]:
                operand = jnp.moveaxis(operand, axes[k], at)
            else:
                shape = (*operand.shape[:at], size, *operand.shape[at:])
                operand = jnp.broadcast_to(jnp.expand_dims(operand, at), shape)
            return operand.reshape(*operand.shape[:at], -1, *operand.shape[at + 2 :])

        results = primitive.bind(*map(merge, range(len(operands))), **options)
        split = [r.reshape(r.shape[0], size, -1, *r.shape[2:]) for r in results]
        return split, [1] * len(split)

    return rule


def one_each(plain: Any) -> Any:
    """Batch rule for sums over the batch, which a new axis cannot be merged into: vmap in XLA."""

    def rule(operands: Sequence[Array], axes: Sequence[Any], **options: Any) -> Any:
        results = jax.vmap(partial(plain, **options), in_axes=tuple(axes))(*operands)
        return results, [0] * len(results)

    return rule
