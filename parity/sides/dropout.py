"""Dropout in both frameworks: the layers that have a rate, and how it is changed."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from flax import nnx

DIGITS = 6
"""Of a rate that is a tensor in float32, no more are right."""
MOST = 1 - 10**-DIGITS
"""In the place of a rate of 1, for which PyTorch draws no mask."""

_RATES: tuple[tuple[Any, str], ...] = (
    (torch.nn.modules.dropout._DropoutNd, "p"),
    (torch.nn.RNNBase, "dropout"),
    (torch.nn.MultiheadAttention, "dropout"),
    (nnx.Dropout, "rate"),
    (nnx.MultiHeadAttention, "dropout_rate"),
)
"""The layers that have a Dropout rate, and the attribute that has it."""


def rates(modules: Mapping[str, Any]) -> dict[str, float]:
    """The rates above 0 of layers, by their paths."""
    found = ((p, getattr(m, name)) for p, m in modules.items() for name in _rate_attributes(m))
    return {path: round(float(rate), 9) for path, rate in found if rate}


def is_layer(module: Any) -> bool:
    """Whether it is a layer of PyTorch that does nothing else."""
    return isinstance(module, torch.nn.modules.dropout._DropoutNd)


def stop(modules: Iterable[Any]) -> None:
    """Set the rates of these modules to 0."""
    for module in modules:
        for attribute in _rate_attributes(module):
            setattr(module, attribute, 0.0)


def train(model: torch.nn.Module) -> None:
    """Put the model in training mode, in which every layer of Dropout draws a mask, even of 1."""
    model.train()
    for module in model.modules():
        for attribute in _rate_attributes(module):
            setattr(module, attribute, min(getattr(module, attribute), MOST))


def _rate_attributes(module: Any) -> Iterator[str]:
    return (attribute for kind, attribute in _RATES if isinstance(module, kind))
