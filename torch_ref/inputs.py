"""Checks the inputs besides the weights, and brings them into the form that the equations use."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torch_ref.weights import Layer

State = tuple[Float[Tensor, "cells batch state"], Float[Tensor, "cells batch hidden"]]


def check_input(layers: tuple[Layer, ...], x: Float[Tensor, "batch time inputs"]) -> None:
    """Raises ValueError unless x is (batch, time ≥ 1, input_size) of the weights' dtype."""
    weight = layers[0]["forward"].weight_ih
    if x.ndim != 3 or x.shape[1] == 0 or x.shape[2] != weight.shape[1]:
        raise ValueError(
            f"x must have shape (batch, time, input_size)=(any, at least 1, {weight.shape[1]}), "
            f"got {tuple(x.shape)}"
        )
    if x.dtype != weight.dtype:
        raise ValueError(
            f"x must have the weights' dtype {weight.dtype}, got {x.dtype}; cast one of them"
        )


def valid_steps(
    x: Float[Tensor, "batch time inputs"], lengths: Int[Tensor, " batch"] | Sequence[int] | None
) -> Bool[Tensor, "batch time"]:
    """True at the steps of a sequence, False in its padding; all True without lengths.

    Raises:
        ValueError: lengths are not integers of shape (batch,), or not all in 1…time.
    """
    batch, time = x.shape[:2]
    if lengths is None:
        return x.new_ones(batch, time, dtype=torch.bool)
    ends = torch.as_tensor(lengths, device=x.device)
    if ends.dtype.is_floating_point or ends.dtype.is_complex or ends.dtype == torch.bool:
        raise ValueError(f"lengths must be integers, got {ends.dtype}")
    if tuple(ends.shape) != (batch,):
        raise ValueError(f"lengths must have shape (batch,)=({batch},), got {tuple(ends.shape)}")
    if bool(((ends < 1) | (ends > time)).any()):
        raise ValueError(
            f"lengths must be between 1 and time={time}, got {ends.tolist()}; "
            "leave empty sequences out"
        )
    return torch.arange(time, device=x.device) < ends[:, None]


def first_state(
    layers: tuple[Layer, ...],
    x: Float[Tensor, "batch time inputs"],
    initial_state: State | None,
) -> State:
    """(h_0, c_0), each (layers·directions, batch, features), as in torch.nn.LSTM; 0 by default.

    Raises:
        ValueError: the shape is wrong, or the dtype is not that of x.
    """
    cells = sum(map(len, layers))
    sizes = layers[0]["forward"].state_sizes
    shapes = [(cells, x.shape[0], size) for size in sizes]
    if initial_state is None:
        return x.new_zeros(shapes[0]), x.new_zeros(shapes[1])
    for name, value, shape in zip(("h_0", "c_0"), initial_state, shapes, strict=True):
        if tuple(value.shape) != shape or value.dtype != x.dtype:
            raise ValueError(
                f"initial_state's {name} must have shape (layers·directions, batch, features)="
                f"{shape} and dtype {x.dtype}, got {tuple(value.shape)} and {value.dtype}"
            )
    return initial_state
