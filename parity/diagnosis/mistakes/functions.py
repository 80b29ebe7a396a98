"""Mistakes of any network, as changed calls of PyTorch functions."""

import torch

from parity.diagnosis.mistakes.attention import of_products, of_softmax
from parity.diagnosis.mistakes.calls import Mistakes
from parity.diagnosis.mistakes.layers import of_layers
from parity.diagnosis.mistakes.masks import of_masks
from parity.diagnosis.mistakes.operands import of_operands
from parity.diagnosis.mistakes.wiring import of_activations, of_wiring


def of_stage(model: torch.nn.Module, longest: int = 0) -> Mistakes:
    """All mistakes of any network; `longest` is the batch's number of time steps."""
    yield from of_softmax(longest)
    yield from of_products(model)
    yield from of_layers()
    yield from of_activations()
    yield from of_wiring()
    yield from of_masks()
    yield from of_operands()
