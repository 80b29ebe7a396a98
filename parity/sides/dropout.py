"""The rates of Dropout, which are compared, since the masks differ; and training without it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from flax import nnx

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
    every = ((p, getattr(m, name)) for p, m in modules.items() for name in _rate_attributes(m))
    return {path: round(float(rate), 9) for path, rate in every if rate}


def stop(modules: Iterable[Any]) -> None:
    """Set the rates of these modules to 0."""
    for module in modules:
        for attribute in _rate_attributes(module):
            setattr(module, attribute, 0.0)


def _rate_attributes(module: Any) -> Iterator[str]:
    return (attribute for kind, attribute in _RATES if isinstance(module, kind))
