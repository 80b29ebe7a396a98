"""Losses of PyTorch and their gradients; what the user's code raises there is one ValueError."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from parity.sides.losses import Loss
from parity.sides.side import Gradients, beside
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


def named_slopes(
    value: torch.Tensor, *named: Mapping[str, torch.Tensor]
) -> Iterator[dict[str, Any]]:
    """The gradients of the value at all tensors of these mappings, under the same names."""
    slopes = slopes_at(value, [tensor for tensors in named for tensor in tensors.values()])
    return ({name: next(slopes) for name in tensors} for tensors in named)


def every_slope(
    parameters: Iterable[str], by_parameter: Gradients, by_input: Gradients, inputs: Tensors
) -> dict[str, np.ndarray | None]:
    """The gradients at every parameter, buffer and input; None for what nothing trains.

    An input trains nothing: that its gradient is not needed, or that it is 0, is the same.
    """
    of_inputs = {
        n: array_of(torch.zeros_like(inputs[n])) if slope is None else slope
        for n, slope in by_input.items()
    }
    buffers = {n: None for n in parameters if n not in by_parameter}
    return {**buffers, **by_parameter, **beside(set(parameters), of_inputs)}


@contextmanager
def differentiated() -> Iterator[None]:
    """Raise ValueError for what the user's module raises only where gradients are computed."""
    try:
        yield
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        raise ValueError(f"torch_model: it cannot be differentiated: {words}") from error
