"""Losses of PyTorch and their gradients; what the user's code raises there is one ValueError."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from parity.sides.losses import Loss
from parity.sides.torch_arrays import Tensors, array_of


def loss_of(loss: Loss, output: Any, inputs: Tensors) -> torch.Tensor:
    """The loss; ValueError if it is not computed, or is no scalar."""
    try:
        value = loss.torch(output, inputs)
        if isinstance(value, torch.Tensor) and value.ndim == 0 and value.is_floating_point():
            return value
        wrong = f"gives {getattr(value, 'shape', value)}, not a floating scalar tensor"
    except Exception as error:  # the user's code can raise anything
        wrong = f"raises {type(error).__name__}: {error}"
    raise ValueError(f"loss: {loss.name}, on the output of torch_model, {wrong}")


def slopes_at(value: torch.Tensor, at: Sequence[torch.Tensor]) -> Iterator[Any]:
    """The gradient of the value at each of the tensors; None where there is none."""
    asked = [tensor for tensor in at if tensor.requires_grad and value.requires_grad]
    with differentiated():
        found = iter(torch.autograd.grad(value, asked, allow_unused=True) if asked else ())
    slopes = (next(found) if tensor.requires_grad and asked else None for tensor in at)
    return (None if slope is None else array_of(slope) for slope in slopes)


@contextmanager
def differentiated() -> Iterator[None]:
    """Raise ValueError for what the user's module raises only where gradients are computed."""
    try:
        yield
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        raise ValueError(f"torch_model: it cannot be differentiated: {words}") from error
