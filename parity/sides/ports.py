"""The pairs of kinds of modules whose inputs and outputs have names and a layout of their own."""

from collections.abc import Callable
from typing import Any

import torch
from flax import nnx

import flax_bilstm as fb
from parity.sides.intercept import AnyModule, Ports
from parity.sides.multihead import FlaxAttention, TorchAttention
from parity.sides.recurrent import FlaxCell, FlaxLSTM, TorchCell, TorchLSTM

_KINDS: tuple[tuple[type, Callable[[Any], Ports], type, Callable[[Any], Ports]], ...] = (
    (torch.nn.LSTM, TorchLSTM, fb.LSTM, FlaxLSTM),
    (torch.nn.LSTMCell, lambda _: TorchCell(), fb.LSTMCell, lambda _: FlaxCell()),
    (
        torch.nn.MultiheadAttention, TorchAttention,
        nnx.MultiHeadAttention, lambda _: FlaxAttention(),
    ),
)  # fmt: skip


def of_one_kind(theirs: Any, ours: Any) -> bool:
    """Whether two modules are such a pair, for instance PyTorch's LSTM and ours.

    A class that is called in a way of its own is not: it may have other arguments.
    """
    kinds: Any = _KINDS
    return any(
        isinstance(theirs, torch_kind) and type(theirs).forward is torch_kind.forward
        and isinstance(ours, flax_kind) and type(ours).__call__ is flax_kind.__call__
        for torch_kind, _, flax_kind, _ in kinds
    )  # fmt: skip


def of_its_own(theirs: Any, ours: Any) -> bool:
    """Whether two modules are such a pair, but either is called in a way of its own."""
    kinds = any(isinstance(theirs, one) and isinstance(ours, two) for one, _, two, _ in _KINDS)
    return kinds and not of_one_kind(theirs, ours)


def torch_ports(module: Any) -> Ports:
    """How to reach the inputs and outputs of a PyTorch module of such a pair."""
    return next((ports(module) for kind, ports, *_ in _KINDS if isinstance(module, kind)), _ANY)


def flax_ports(module: Any) -> Ports:
    """How to reach the inputs and outputs of a Flax module of such a pair."""
    return next((ports(module) for *_, kind, ports in _KINDS if isinstance(module, kind)), _ANY)


_ANY = AnyModule()
