"""The fixed masks in Flax, in place of what its Dropout draws, and the keys of what it draws.

That is every `nnx.Dropout`, and the Dropout of attention weights, which `nnx.MultiHeadAttention`
draws inside of a function.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn import attention
from flax.nnx.transforms import compilation
from jax.experimental.xla_metadata import set_xla_metadata

from parity.sides.dropout import DIGITS
from parity.sides.fixed_masks import VALUES, fixed_mask, varied

_FLAX: Any = nnx.Dropout


@contextmanager
def fixed_flax(by: str) -> Iterator[None]:
    """Replace all Dropout of Flax that is called, also in copies that a transformation makes."""

    def act(layer: Any, inputs: Any, rngs: Any, number: int) -> Any:
        shared = {axis % inputs.ndim for axis in layer.broadcast_dims}
        shape = tuple(1 if axis in shared else n for axis, n in enumerate(inputs.shape))
        rate = round(float(layer.rate), DIGITS)
        if rate == 1 or not inputs.size:
            return jnp.zeros_like(inputs)
        if by == VALUES:
            return varied(inputs, rate, shape, jnp)
        kept = jnp.asarray(fixed_mask(shape, rate, number), bool)
        return jnp.where(kept, inputs / (1 - layer.rate), jnp.zeros_like(inputs))

    with _acting(act):
        yield


@contextmanager
def unjitted() -> Iterator[None]:
    """Let `nnx.jit` do nothing."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.fun(*args, **kwargs)

    with ExitStack() as undo:
        for name in ("JitWrapped", "SimpleJitWrapped"):
            if hasattr(compilation, name):
                undo.enter_context(mock.patch.object(getattr(compilation, name), "__call__", call))
        yield


@contextmanager
def _acting(act: Callable[[Any, Any, Any, int], Any]) -> Iterator[None]:
    """Let every Dropout that is not still act so, without anything of it in a cache of JAX.

    What is compiled once would have the number of one call. What JAX itself compiles is known in
    its caches by metadata, too.

    Args:
        act: (layer, inputs, rngs, number of the call) → what the call returns.
    """

    def call(self: Any, inputs: Any, *, deterministic: Any = None, rngs: Any = None) -> Any:
        still = self.deterministic if deterministic is None else deterministic
        given = self.rngs if rngs is None else rngs
        return inputs if still or not self.rate else act(self, inputs, given, next(calls))

    def weights(*args: Any, **options: Any) -> Any:
        given = inspect.signature(own_weights).bind(*args, **options)
        given.apply_defaults()
        asked = given.arguments
        still, rate = asked["deterministic"], asked["dropout_rate"]
        asked["deterministic"] = True
        found = own_weights(*given.args, **given.kwargs)
        shared = range(found.ndim - 2) if asked["broadcast_dropout"] else ()
        layer = nnx.Dropout(rate, broadcast_dims=tuple(shared), deterministic=still)
        return layer(found, rngs=asked["dropout_rng"])

    calls, own_weights = count(), attention.dot_product_attention_weights
    with ExitStack() as undo:
        undo.enter_context(unjitted())
        undo.enter_context(mock.patch.object(_FLAX, "__call__", call))
        undo.enter_context(mock.patch.object(attention, own_weights.__name__, weights))
        undo.enter_context(set_xla_metadata(parity=str(next(_RUNS))))  # part of the caches' key
        yield


_RUNS = count()
Drawn = tuple[int, bytes]
"""The number of a call of a Dropout, and the key that it draws its mask from."""

_DRAWN: list[Drawn] = []
"""What is drawn now. A compiled program is used again, so that it cannot have a list of its own."""


@contextmanager
def recorded_keys() -> Iterator[list[Drawn]]:
    """Record the key of every mask that an `nnx.Dropout` draws, in transformations too.

    JAX must be told to wait for what is recorded (`jax.effects_barrier`).
    """

    def act(layer: Any, inputs: Any, rngs: Any, number: int) -> Any:
        if rngs is None:  # which key it would be given, nobody knows
            _DRAWN.append((number, b""))
            return inputs
        key = rngs[layer.rng_collection] if isinstance(rngs, nnx.Rngs) else rngs
        key = key() if isinstance(key, nnx.RngStream) else key
        jax.debug.callback(_record, number, jax.random.key_data(key))
        return own(layer, inputs, deterministic=False, rngs=key)

    own = _FLAX.__call__
    _DRAWN.clear()
    with _acting(act):
        yield _DRAWN


def _record(call: Any, key: Any) -> None:
    _DRAWN.append((int(call), np.asarray(key).tobytes()))
