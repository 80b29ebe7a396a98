"""Dropout without chance: something fixed takes the place of every mask, on both sides.

The two frameworks draw different masks. So a training run has none; and a forward pass in training
mode has, for each Dropout, numbers that depend on the rate and on the axes that share a mask. They
depend on `POSITIONS` and on the call, like a mask: this fits every right port that has the same
layout there, and calls its layers in the same order. Others have the numbers elsewhere. So if that
run fails, the numbers depend on the `VALUES`: the function of one number that this gives has no
layout, may change places with a ReLU, a transpose or a slice, but with no product, normalization or
maximum. What passes neither has a Dropout that is not where it should be.

Fixed numbers do not show whether a call draws other masks than the call before it: `one_at_random`
is for that.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch.utils._python_dispatch import TorchDispatchMode

_FLAX: Any = nnx.Dropout
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
    return {path: rate for path, rate in every_rate(modules).items() if rate}


def every_rate(modules: Mapping[str, Any]) -> dict[str, float]:
    """The rates of layers, 0 among them, by their paths."""
    found = ((p, getattr(m, name)) for p, m in modules.items() for name in _rate_attributes(m))
    return {path: round(float(rate), 9) for path, rate in found}


def attention(modules: Mapping[str, Any]) -> dict[str, Any]:
    """The layers of attention among them, whose Dropout `nnx` draws inside of a function."""
    kinds = torch.nn.MultiheadAttention | nnx.MultiHeadAttention
    return {path: module for path, module in modules.items() if isinstance(module, kinds)}


def is_layer(module: Any) -> bool:
    """Whether it is a layer of PyTorch that does nothing else."""
    return isinstance(module, torch.nn.modules.dropout._DropoutNd)


def stop(modules: Iterable[Any]) -> None:
    """Set the rates of these modules to 0."""
    for module in modules:
        for attribute in _rate_attributes(module):
            setattr(module, attribute, 0.0)


def train(model: torch.nn.Module) -> None:
    """Put the model in training mode, in which every layer of Dropout draws a mask."""
    model.train()
    for module in model.modules():
        for attribute in _rate_attributes(module):
            setattr(module, attribute, min(getattr(module, attribute), MOST))


def _rate_attributes(module: Any) -> Iterator[str]:
    return (attribute for kind, attribute in _RATES if isinstance(module, kind))


POSITIONS, VALUES = "positions", "values"
DIGITS = 6
"""Of a rate that is a tensor in float32, no more are right."""
WAVES = 20.0
"""How often `VALUES` rise and fall."""
MOST = 1 - 10**-DIGITS
"""In the place of a rate of 1, for which PyTorch draws no mask."""


def fixed(by: str, x: Any, rate: float, mask: tuple[int, ...], call: int, framework: Any) -> Any:
    """What takes the place of a Dropout.

    Args:
        by: what the numbers depend on, `POSITIONS` or `VALUES`.
        x: an array or tensor of any shape.
        rate: the probability of zeroing an element.
        mask: the shape of the mask, with as many axes as x; 1 where it is shared.
        call: the number of the call, from 0.
        framework: `torch` or `jax.numpy`.
    """
    if by == POSITIONS:
        drawn = np.random.default_rng(call).uniform(-1, 1, mask)
        return x * framework.asarray(1 + rate * drawn, dtype=x.dtype)
    shared = tuple(axis for axis, size in enumerate(mask) if size < x.shape[axis])
    # The ReLU, since a mask that is shared may change places with one, too.
    kept = framework.where(x > 0, x, framework.zeros_like(x)) if shared else x
    squares = (kept * kept).mean(shared, keepdims=True) if shared else kept * kept
    squares = framework.where(squares > 0, squares, framework.ones_like(squares))
    # It rises and falls, since a function that only rises may change places with a maximum; by
    # much, so that another element becomes the largest.
    return x * (1 + rate**0.25 * framework.sin(WAVES * framework.log(squares)))


class _Fixing:
    """What `FixedDropout` does with every operation: a separate class, as in `parity.nudging`.

    PyTorch's layers and functions, LSTMs and attention all draw a mask by `bernoulli`, and multiply
    by it.
    """

    by: str
    masks: dict[int, tuple[torch.Tensor, float, int]]
    """id → a mask, or what was made of one; the rate, and the number of the call."""
    drawn: int
    used: set[int]
    random: bool

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "native_dropout":  # on GPUs
            x, rate, *_ = args
            mask = torch.zeros_like(x, dtype=torch.bool)
            self._note(mask, rate, self.drawn)
            self.drawn += 1
            return self._fixed(x, rate, mask, self.drawn - 1), mask
        if name == "native_dropout_backward":
            x, mask, _ = args
            _, rate, call = self.masks[id(mask)]
            return self._fixed(x, rate, mask, call)
        if name in ("bernoulli_", "bernoulli"):
            return self._drawn(name, *args[:2])
        self.random |= _is_random(func, args, kwargs or {})
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        masks = [tensor for tensor in tensors if id(tensor) in self.masks]
        if not masks:
            return func(*args, **(kwargs or {}))
        mask, rate, call = self.masks[id(masks[0])]
        added = name in ("add", "add_") and not self.by  # AlphaDropout adds a second mask
        if len(tensors) == 2 and (added or name in ("mul", "mul_")):
            x = tensors[1] if tensors[0] is mask else tensors[0]
            made = self._fixed(x, rate, mask, call)
            return tensors[0].copy_(made) if name.endswith("_") else made
        result = func(*args, **(kwargs or {}))
        if len(tensors) == 1:
            self._note(result, rate, call)
        return result

    def _drawn(self, name: str, given: torch.Tensor, keep: Any = None) -> torch.Tensor:
        """A mask of ones, in place of `bernoulli_(mask, keep)` or `bernoulli(keep for each)`."""
        if keep is None:
            keep = 0.5 if name == "bernoulli_" else given
        rate = 1 - float(keep.double().mean() if isinstance(keep, torch.Tensor) else keep)
        mask = given.fill_(1) if name == "bernoulli_" else torch.ones_like(given)
        self._note(mask, round(rate, DIGITS), self.drawn)
        self.drawn += 1
        return mask

    def _note(self, mask: Any, rate: float, call: int) -> None:
        if isinstance(mask, torch.Tensor):
            self.masks[id(mask)] = mask, rate, call

    def _fixed(self, x: torch.Tensor, rate: float, mask: torch.Tensor, call: int) -> torch.Tensor:
        self.used.add(call)
        # A mask by hand may be of ones, and its product divided by their share later.
        scale = 1 - rate if mask.numel() and float(mask.reshape(-1)[0]) == 1 else 1
        if not self.by:
            return x * scale
        x = x.expand(torch.broadcast_shapes(x.shape, mask.shape))
        sizes = zip(mask.shape, mask.stride(), strict=True)
        own = [size if stride else 1 for size, stride in sizes]  # expanded: its stride is 0
        aligned = (*[1] * (x.ndim - len(own)), *own)
        return fixed(self.by, x.cpu(), rate, aligned, call, torch).to(x.device) * scale


def _is_random(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operator draws random numbers. That of attention draws none at a rate of 0."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    names = (argument.name for argument in func._schema.arguments)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return bool(given.get("dropout_p", 1))


class FixedDropout(_Fixing, TorchDispatchMode):
    """Replaces every Dropout of PyTorch, see `fixed`; without `by`, by nothing.

    The backward pass belongs into it, too: there, the gradient is multiplied by the mask.

    Attributes:
        random: whether anything else drew random numbers of PyTorch.
    """

    def __init__(self, by: str = "") -> None:
        super().__init__()
        self.by, self.masks, self.drawn, self.used, self.random = by, {}, 0, set(), False

    @property
    def replaces_all(self) -> bool:
        """Whether every mask that was drawn was multiplied by something."""
        return len(self.used) == self.drawn


@contextmanager
def fixed_flax(by: str) -> Iterator[None]:
    """Replace every `nnx.Dropout` that is called, also in copies that a transformation makes."""

    def call(self: Any, inputs: Any, *, deterministic: Any = None, rngs: Any = None) -> Any:
        still = self.deterministic if deterministic is None else deterministic
        if self.rate == 0 or still:
            return inputs
        shared = {axis % inputs.ndim for axis in self.broadcast_dims}
        mask = tuple(1 if axis in shared else n for axis, n in enumerate(inputs.shape))
        return fixed(by, inputs, min(round(float(self.rate), DIGITS), MOST), mask, next(calls), jnp)

    own, calls = _FLAX.__call__, count()
    _FLAX.__call__ = call
    try:
        yield
    finally:
        _FLAX.__call__ = own


@contextmanager
def one_at_random(chosen: Any) -> Iterator[Callable[[], int]]:
    """Let one call of an `nnx.Dropout` draw a mask, with a rate of a half, and no other.

    Args:
        chosen: the number of the call, from 0, which JAX may trace.

    Yields:
        A function that says how many calls there were.
    """
    own, calls = _FLAX.__call__, 0

    def call(self: Any, inputs: Any, *, deterministic: Any = None, rngs: Any = None) -> Any:
        nonlocal calls
        if not self.rate or (self.rngs is None and rngs is None):
            return inputs
        calls, number = calls + 1, calls
        # Not `self.rate = 0.5`: inside of a transformation, Flax may forbid to change a module.
        half = SimpleNamespace(**{**vars(self), "rate": 0.5})
        drawn = own(half, inputs, deterministic=deterministic, rngs=rngs)
        return jnp.where(chosen == number, drawn, inputs)

    _FLAX.__call__ = call
    try:
        yield lambda: calls
    finally:
        _FLAX.__call__ = own
