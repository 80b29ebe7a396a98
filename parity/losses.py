"""Losses that exist in both frameworks: one table, a row for each pair of twins."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int, Scalar, Shaped


@dataclass(frozen=True)
class Loss:
    """One loss, (output, target) → scalar, in both frameworks."""

    name: str
    torch: Callable[[Any, Any], Any]
    jax: Callable[[jax.Array, jax.Array], jax.Array]


def _torch(name: str) -> Callable[[Any, Any], Any]:
    def loss(output: Any, target: Any) -> Any:
        import torch

        return getattr(torch.nn.functional, name)(output, target)

    return loss


def _mean_squared_error(
    output: Float[jax.Array, "..."], target: Float[jax.Array, "..."]
) -> Shaped[Scalar, ""]:
    return jnp.mean(jnp.square(output.astype(target.dtype) - target))


def _cross_entropy(
    output: Float[jax.Array, "batch classes"], target: Int[jax.Array, " batch"]
) -> Shaped[Scalar, ""]:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(output, target))


MEAN_SQUARED_ERROR = Loss("mean squared error", _torch("mse_loss"), _mean_squared_error)
CROSS_ENTROPY = Loss("cross entropy", _torch("cross_entropy"), _cross_entropy)
