"""Losses that exist in both frameworks: a table with a row for each pair."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
import torch
from jaxtyping import Float, Scalar, Shaped

from parity.sides import trees
from parity.sides.side import TARGET, floating

IGNORED = -100
"""The class that PyTorch's cross entropy ignores."""


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
    output: Float[jax.Array, "..."], target: Shaped[jax.Array, "..."]
) -> Shaped[Scalar, ""]:
    if not floating(target):
        target = target.astype(output.dtype)
    return jnp.mean(jnp.square(output.astype(target.dtype) - target))


def _cross_entropy(
    output: Float[jax.Array, "..."], target: Shaped[jax.Array, "..."]
) -> Shaped[Scalar, ""]:
    """https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.cross_entropy.html"""
    axis = min(1, output.ndim - 1)
    if floating(target):
        return optax.softmax_cross_entropy(output, target, axis).mean()
    counts = target != IGNORED
    classes = jnp.where(counts, target, 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(output, classes, axis)
    return jnp.mean(losses, where=counts)


def _classes_second(output: Any, target: Any) -> Any:
    """The output with its classes on axis 1, where PyTorch has them.

    If integer targets fit only an output with its classes on the last axis, as a tagger has them,
    (batch, time, classes), they are moved.
    """
    shape, wanted = tuple(output.shape), tuple(target.shape)
    last = len(shape) > 2 and wanted == shape[:-1] and wanted != shape[:1] + shape[2:]
    if not last:
        return output
    moveaxis: Any = jnp.moveaxis if isinstance(output, jax.Array) else torch.movedim
    return moveaxis(output, -1, 1)


def _inner_product(output: Any, cotangent: Any) -> Any:
    if isinstance(output, jax.Array):  # the sum of bfloat16 products is float32 there
        cotangent = cotangent.astype(output.dtype)
    return (output * cotangent).sum()


def _on_target(
    torch_loss: Callable, jax_loss: Callable, name: str, *, targeted: bool = True
) -> Loss:
    """A loss of all floating outputs, joined in one array, and of a target.

    If it is targeted, the target has the shape of that array.
    """

    def in_torch(output: Any, inputs: Mapping[str, Any]) -> Any:
        whole, target = _joined(output, torch.stack, torch.cat), inputs.get(TARGET)
        if target is None:
            raise ValueError(f'expected targets={{"{TARGET}": …}}, the class of each row')
        if targeted and whole.shape != target.shape:
            raise ValueError(
                f"targets: expected {TARGET!r} of the output's shape, {tuple(whole.shape)}, got "
                f"{tuple(target.shape)}"
            )
        return torch_loss(whole, target)

    def in_jax(output: Any, inputs: Mapping[str, Any]) -> Any:
        whole, target = _joined(output, jnp.stack, jnp.concatenate), inputs[TARGET]
        if targeted and whole.shape != target.shape:
            raise ValueError(f"the output has shape {whole.shape}, the reference's {target.shape}")
        return jax_loss(whole, target)

    return Loss(name, in_torch, in_jax, targeted)


def _squares(output: Any, inputs: Mapping[str, Any]) -> Any:
    parts = [
        (abs(array) ** 2).sum()
        for array in trees.arrays("", output).values()
        if "float" in str(array.dtype) or "complex" in str(array.dtype)
    ]
    return sum(parts[1:], parts[0]) if parts else torch.zeros(())


def _joined(output: Any, stack: Callable[..., Any], join: Callable[..., Any]) -> Any:
    """The floating arrays of an output in one, sorted by name: a dict's order may differ.

    Complex ones are stacked, with real and imaginary part on a last axis.
    """
    found = sorted(trees.arrays("output", output).items())
    named = [(str(array.dtype), array) for _, array in found]  # dtypes of PyTorch or of JAX
    parts = [
        stack((array.real, array.imag), -1) if "complex" in dtype else array
        for dtype, array in named
        if "complex" in dtype or "float" in dtype
    ]
    if not parts:
        raise ValueError(f"the output has no floating numbers, only {[d for d, _ in named]}")
    return parts[0] if len(parts) == 1 else join([part.ravel() for part in parts])


MEAN_SQUARED_ERROR = _on_target(
    torch.nn.functional.mse_loss, _mean_squared_error, "mean squared error"
)
CROSS_ENTROPY = _on_target(
    lambda output, target: torch.nn.functional.cross_entropy(
        _classes_second(output, target),
        target if target.is_floating_point() else target.long(),  # JAX has classes in int32
    ),
    lambda output, target: _cross_entropy(_classes_second(output, target), target),
    "cross entropy",
    targeted=False,
)
"""PyTorch's mean cross entropy, of classes, where −100 is ignored, or of probabilities. Classes are
on axis 1; or on the last axis, if only that fits the targets."""
INNER_PRODUCT = _on_target(_inner_product, _inner_product, "inner product with a cotangent")
"""Its gradient is the VJP of the input `target`."""
SQUARES = Loss("the sum of squares", _squares, _squares)
"""Of all numbers of the output that have a gradient, real or complex; without a target."""
LOSSES = (MEAN_SQUARED_ERROR, CROSS_ENTROPY, INNER_PRODUCT, SQUARES)
ONE_SHAPE = (MEAN_SQUARED_ERROR, INNER_PRODUCT)
"""The losses whose target must have the output's shape, in training mode, too."""
