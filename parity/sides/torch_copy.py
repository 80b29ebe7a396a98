"""Copies of PyTorch's modules."""

import copy
from typing import Any

import torch

from parity.sides.kept import outside_of_state


def copied(module: torch.nn.Module) -> torch.nn.Module:
    """A copy of the module, whose gradients are dense: NumPy has no sparse arrays.

    The hooks of its parameters, which a copy of a tensor loses, are those of the module's.
    A weight that `torch.nn.utils.weight_norm` computes is an attribute, which cannot be copied with
    its gradient, and is computed again in every call.
    """
    computed = (
        tensor
        for part in module.modules()
        for tensor in vars(part).values()
        if isinstance(tensor, torch.Tensor) and not tensor.is_leaf
    )
    made = copy.deepcopy(module, {id(tensor): tensor.detach().clone() for tensor in computed})
    for own, theirs in zip(made.parameters(), module.parameters(), strict=True):
        _hook_alike(own, theirs)
    for part in made.modules():
        if isinstance(part, torch.nn.Embedding | torch.nn.EmbeddingBag):
            part.sparse = False
    return made


def in_dtype(module: torch.nn.Module, dtype: str) -> torch.nn.Module:
    """The module, changed to this dtype; `Module.to` would make complex buffers real."""
    names = {"float64": "double", "float32": "float", "bfloat16": "bfloat16"}
    getattr(module, names[dtype])()
    wide = torch.complex128 if dtype == "float64" else torch.complex64
    for part in module.modules():
        for name, held in part._buffers.items():
            if held is not None and held.is_complex():
                part._buffers[name] = held.to(wide)
    return module


def rounded_constants(module: torch.nn.Module) -> list[str]:
    """Those of them that are in float32, and need more digits than half of those that it has."""
    held = outside_of_state(module).items()
    return [
        name for name, tensor in held
        if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32
        and not torch.equal(*_short(tensor[tensor.isfinite()]))
    ]  # fmt: skip


def _short(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What is not whole, and the same with the first 12 of its 24 significant bits."""
    tensor = tensor[tensor != tensor.round()]
    mantissa, exponent = torch.frexp(tensor)
    return tensor, torch.ldexp((mantissa * 2**12).trunc() / 2**12, exponent)


def _hook_alike(parameter: Any, other: Any) -> None:
    for hook in (other._backward_hooks or {}).values():
        parameter.register_hook(hook)
    for hook in (other._post_accumulate_grad_hooks or {}).values():
        parameter.register_post_accumulate_grad_hook(hook)
