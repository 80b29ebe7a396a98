"""Losses that exist in both frameworks: a table with a row for each pair."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
import torch
from jaxtyping import Float, Int, Scalar, Shaped

from parity.sides import trees
from parity.sides.side import TARGET


@dataclass(frozen=True)
class Loss:
    """One loss in both frameworks: (the model's output, all inputs by name) → scalar.

    Attributes:
        name: its name in reports.
        torch: in PyTorch.
        jax: the same in JAX.
        targeted: whether it reads the input `target`, which is drawn at random if there is none.
    """

    name: str
    torch: Callable[[Any, Mapping[str, Any]], Any]
    jax: Callable[[Any, Mapping[str, Any]], Any]
    targeted: bool = False


def _mean_squared_error(
    output: Float[jax.Array, "..."], target: Float[jax.Array, "..."]
) -> Shaped[Scalar, ""]:
    return jnp.mean(jnp.square(output.astype(target.dtype) - target))


def _cross_entropy(
    output: Float[jax.Array, "batch classes"], target: Int[jax.Array, " batch"]
) -> Shaped[Scalar, ""]:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(output, target))


def _inner_product(output: Any, cotangent: Any) -> Any:
    if isinstance(output, jax.Array):  # the sum of bfloat16 products is float32 there
        cotangent = cotangent.astype(output.dtype)
    return (output * cotangent).sum()


def _on_target(
    torch_loss: Callable, jax_loss: Callable, name: str, *, targeted: bool = True
) -> Loss:
    """A loss of all floating outputs, joined in one array, and of a target of that shape."""

    def in_torch(output: Any, inputs: Mapping[str, Any]) -> Any:
        parts = _floating(output, torch.stack)
        whole = parts[0] if len(parts) == 1 else torch.cat([part.ravel() for part in parts])
        if TARGET not in inputs:
            raise ValueError(f'expected targets={{"{TARGET}": …}}, the class of each row')
        return torch_loss(whole, inputs[TARGET])

    def in_jax(output: Any, inputs: Mapping[str, Any]) -> Any:
        parts = _floating(output, jnp.stack)
        whole = parts[0] if len(parts) == 1 else jnp.concatenate([part.ravel() for part in parts])
        if jax_loss is not _cross_entropy and whole.shape != inputs[TARGET].shape:
            raise ValueError(
                f"the output has shape {whole.shape}, the reference's {inputs[TARGET].shape}"
            )
        return jax_loss(whole, inputs[TARGET])

    return Loss(name, in_torch, in_jax, targeted)


def _floating(output: Any, stack: Callable[..., Any]) -> list[Any]:
    """The floating arrays of an output, sorted by name: the sides may order a dict differently.

    Complex ones are stacked, with real and imaginary part on a last axis.
    """
    found = sorted(trees.arrays("output", output).items())
    named = [(str(array.dtype), array) for _, array in found]  # dtypes of PyTorch or of JAX
    return [
        stack((array.real, array.imag), -1) if "complex" in dtype else array
        for dtype, array in named
        if "complex" in dtype or "float" in dtype
    ]


MEAN_SQUARED_ERROR = _on_target(
    torch.nn.functional.mse_loss, _mean_squared_error, "mean squared error"
)
CROSS_ENTROPY = _on_target(
    torch.nn.functional.cross_entropy, _cross_entropy, "cross entropy", targeted=False
)
INNER_PRODUCT = _on_target(_inner_product, _inner_product, "inner product with a cotangent")
"""Its gradient is the VJP of the input `target`."""
