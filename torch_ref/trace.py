"""Functions on a trace, a dict from name to tensor in order of computation.

`torch_ref.unrolled` makes traces and lists their names.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

Trace = dict[str, Tensor]


def steps(
    trace: Mapping[str, Tensor | None], stage: str, quantity: str
) -> Float[Tensor, "batch time _"]:
    """All time steps of one quantity, in order of time for both directions.

    Args:
        trace: a trace of `lstm` or `network`, or the `gradients` of one.
        stage: layer and direction, such as "lstm.layer0.reverse".
        quantity: a name such as "forget_gate", see `torch_ref.unrolled`.

    Raises:
        KeyError: the trace has no such stage or quantity.
        ValueError: the gradient of a step is None.
    """
    values: list[Tensor] = []
    while (name := f"{stage}.t{len(values)}.{quantity}") in trace:
        value = trace[name]
        if value is None:
            raise ValueError(f"{name} is None: the loss does not depend on it; stack other steps")
        values.append(value)
    if not values:
        known = [known for known in trace if ".t0." in known]
        raise KeyError(f"the trace has no {name}; at t0 it has {known}")
    return torch.stack(values, dim=1)


def leaves(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Detached copies in the dtype that require gradients; the originals are unchanged."""
    return {
        name: value.detach().clone().to(dtype).requires_grad_() for name, value in tensors.items()
    }


def gradients(named: Mapping[str, Tensor], loss: Float[Tensor, ""]) -> dict[str, Tensor | None]:
    """The loss's gradient at each named tensor; None where the loss does not depend on it.

    The graph is kept, so that the gradients of a second loss can be computed from the same trace.

    Args:
        named: a trace, together with the leaves it was computed from if their gradients matter.
        loss: a scalar computed from them.

    Raises:
        ValueError: the loss depends on nothing that requires a gradient.
    """
    if not loss.requires_grad:
        raise ValueError(
            "loss must depend on a tensor that requires a gradient, got a constant; "
            "compute the trace from leaves(state_dict, dtype)"
        )
    asked = {name: value for name, value in named.items() if value.requires_grad}
    grads = torch.autograd.grad(loss, list(asked.values()), allow_unused=True, retain_graph=True)
    return {**dict.fromkeys(named), **dict(zip(asked, grads, strict=True))}
