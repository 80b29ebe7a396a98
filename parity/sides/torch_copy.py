"""Copies of PyTorch's modules."""

import copy

import torch


def copied(module: torch.nn.Module) -> torch.nn.Module:
    """A copy of the module, whose gradients are dense: NumPy has no sparse arrays.

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
    for part in made.modules():
        if isinstance(part, torch.nn.Embedding | torch.nn.EmbeddingBag):
            part.sparse = False
    return made
