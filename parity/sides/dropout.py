"""Dropout without chance: one fixed function takes the place of every mask, on both sides.

The two frameworks draw different masks. So a training run has none; and one forward pass in
training mode has, for each Dropout, a function of one number, which differs with the rate and with
how many elements share a number of the mask. Positive numbers are multiplied by one factor,
negative ones by another: like a mask, the function may change places with a ReLU, a transpose or a
slice, but with no matrix product or normalization. So if the outputs are equal, every Dropout is
where it should be.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax.numpy as jnp
import torch
from flax import nnx
from torch.utils._python_dispatch import TorchDispatchMode

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


def is_layer(module: Any) -> bool:
    """Whether it is a layer of PyTorch that does nothing else."""
    return isinstance(module, torch.nn.modules.dropout._DropoutNd)


def stop(modules: Iterable[Any]) -> None:
    """Set the rates of these modules to 0."""
    for module in modules:
        for attribute in _rate_attributes(module):
            setattr(module, attribute, 0.0)


def _rate_attributes(module: Any) -> Iterator[str]:
    return (attribute for kind, attribute in _RATES if isinstance(module, kind))


def fixed(x: Any, rate: float, masked: float, where: Callable[..., Any]) -> Any:
    """What takes the place of a Dropout.

    Args:
        x: an array or tensor of any shape.
        rate: the probability of zeroing an element.
        masked: how many numbers the mask has for each element of x: below 1 if it is broadcast.
        where: that of the framework.
    """
    strength = rate * (1 + masked) / 2
    return where(x > 0, x * (1 + strength), x * (1 - strength / 2))


class _Fixing:
    """What `FixedDropout` does with every operation: a separate class, as in `parity.nudging`.

    PyTorch's layers and functions, LSTMs and attention all draw a mask by `bernoulli`, and multiply
    by it.
    """

    on: bool
    masks: dict[int, tuple[torch.Tensor, float, int]]
    """id → a mask, or what was made of one; the rate, and how many numbers were drawn."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "native_dropout":  # on GPUs
            x, rate, *_ = args
            return self._fixed(x, rate, x.numel()), torch.ones_like(x, dtype=torch.bool)
        if name in ("bernoulli_", "bernoulli"):
            return self._drawn(name, *args[:2])
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        masks = [tensor for tensor in tensors if id(tensor) in self.masks]
        if not masks:
            return func(*args, **(kwargs or {}))
        _, rate, drawn = self.masks[id(masks[0])]
        added = name in ("add", "add_") and not self.on  # AlphaDropout adds a second mask
        if len(tensors) == 2 and (added or name in ("mul", "mul_")):
            x = tensors[1] if tensors[0] is masks[0] else tensors[0]
            made = self._fixed(x, rate, drawn)
            return tensors[0].copy_(made) if name.endswith("_") else made
        result = func(*args, **(kwargs or {}))
        if len(tensors) == 1:
            self._note(result, rate, drawn)
        return result

    def _drawn(self, name: str, given: torch.Tensor, keep: Any = None) -> torch.Tensor:
        """A mask of ones, in place of `bernoulli_(mask, keep)` or `bernoulli(keep for each)`."""
        mask = given.fill_(1) if name == "bernoulli_" else torch.ones_like(given)
        if keep is None:
            keep = 0.5 if name == "bernoulli_" else given
        mean = keep.double().mean() if isinstance(keep, torch.Tensor) else keep
        self._note(mask, 1 - float(mean), mask.numel())
        return mask

    def _note(self, mask: Any, rate: float, drawn: int) -> None:
        if isinstance(mask, torch.Tensor):
            self.masks[id(mask)] = mask, rate, drawn

    def _fixed(self, x: torch.Tensor, rate: float, drawn: int) -> torch.Tensor:
        return fixed(x, rate, drawn / max(x.numel(), 1), torch.where) if self.on else x.clone()


class FixedDropout(_Fixing, TorchDispatchMode):
    """Replaces every Dropout of PyTorch; if not `on`, by nothing."""

    def __init__(self, on: bool = True) -> None:
        super().__init__()
        self.on, self.masks = on, {}


@contextmanager
def fixed_flax() -> Iterator[None]:
    """Replace every `nnx.Dropout` that is called, also in copies that a transformation makes."""

    def call(self: Any, inputs: Any, *, deterministic: Any = None, rngs: Any = None) -> Any:
        still = self.deterministic if deterministic is None else deterministic
        if self.rate == 0 or still:
            return inputs
        if self.rate == 1:
            return jnp.zeros_like(inputs)
        shared = math.prod(inputs.shape[axis] for axis in self.broadcast_dims)
        return fixed(inputs, float(self.rate), 1 / max(shared, 1), jnp.where)

    kind: Any = nnx.Dropout
    own = kind.__call__
    kind.__call__ = call
    try:
        yield
    finally:
        kind.__call__ = own
