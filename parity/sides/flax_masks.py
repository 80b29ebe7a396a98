"""The fixed masks in Flax, in place of what `nnx.Dropout` draws, and the keys of what it draws."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.transforms import compilation
from jax.experimental.xla_metadata import set_xla_metadata

from parity.sides.dropout import DIGITS
from parity.sides.fixed_masks import VALUES, fixed_mask, varied

_FLAX: Any = nnx.Dropout


@contextmanager
def fixed_flax(by: str) -> Iterator[None]:
    """Replace every `nnx.Dropout` that is called, also in copies that a transformation makes."""

    def call(self: Any, inputs: Any, *, deterministic: Any = None, rngs: Any = None) -> Any:
        still = self.deterministic if deterministic is None else deterministic
        if self.rate == 0 or still:
            return inputs
        shared = {axis % inputs.ndim for axis in self.broadcast_dims}
        shape = tuple(1 if axis in shared else n for axis, n in enumerate(inputs.shape))
        rate, number = round(float(self.rate), DIGITS), next(calls)
        if rate == 1 or not inputs.size:
            return jnp.zeros_like(inputs)
        if by == VALUES:
            return varied(inputs, rate, shape, jnp)
        kept = jnp.asarray(fixed_mask(shape, rate, number), bool)
        return jnp.where(kept, inputs / (1 - self.rate), jnp.zeros_like(inputs))

    calls = count()
    with _called_by(call):
        yield


@contextmanager
def unjitted() -> Iterator[None]:
    """Let `nnx.jit` do nothing."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.fun(*args, **kwargs)

    with ExitStack() as undo:
        for kind in (
            getattr(compilation, name, None) for name in ("JitWrapped", "SimpleJitWrapped")
        ):
            if kind is not None:
                undo.enter_context(mock.patch.object(kind, "__call__", call))
        yield


@contextmanager
def _called_by(call: Any) -> Iterator[None]:
    """Let `nnx.Dropout` be called by this function, without anything of it in a cache of JAX.

    What is compiled once would have the number of one call. What JAX itself compiles is known in
    its caches by metadata, too.
    """
    with ExitStack() as undo:
        undo.enter_context(unjitted())
        undo.enter_context(mock.patch.object(_FLAX, "__call__", call))
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

    def call(self: Any, inputs: Any, *, deterministic: Any = None, rngs: Any = None) -> Any:
        still = self.deterministic if deterministic is None else deterministic
        given = self.rngs if rngs is None else rngs
        if not self.rate or still:
            return inputs
        if given is None:  # which key it would be given, nobody knows
            _DRAWN.append((next(calls), b""))
            return inputs
        key = given[self.rng_collection] if isinstance(given, nnx.Rngs) else given
        key = key() if isinstance(key, nnx.RngStream) else key
        jax.debug.callback(_record, next(calls), jax.random.key_data(key))
        return own(self, inputs, deterministic=False, rngs=key)

    own, calls = _FLAX.__call__, count()
    _DRAWN.clear()
    with _called_by(call):
        yield _DRAWN


def _record(call: Any, key: Any) -> None:
    _DRAWN.append((int(call), np.asarray(key).tobytes()))
