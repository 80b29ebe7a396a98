"""As many training steps as examples/train_digits.py makes in an hour."""

import gc
import resource
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.typing import ArrayLike

import flax_bilstm as fb

STEPS = 160_000
"""The example makes 43 steps a second on two cores."""

WARM_UP = 500
COMPILED = "/jax/core/compile/backend_compile_duration"
MOST_GROWTH = 8 * 2**20
"""Bytes: the allocator's own variation."""


def resident() -> int:
    """Bytes of memory that this process has now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def run(steps: int) -> Iterator[str]:
    """One line for everything that grew, was compiled again, or went wrong after the warm-up.

    Batches are ragged, their values and lengths differ from step to step, and Dropout is on.
    """
    model = fb.LSTM(4, 16, num_layers=2, bidirectional=True, dropout=0.1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adamw(1e-3), wrt=nnx.Param)
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event == COMPILED else None
    )

    @nnx.jit
    def step(model: fb.LSTM, optimizer: Any, x: ArrayLike, lengths: ArrayLike) -> jax.Array:
        def loss_of(model: fb.LSTM) -> jax.Array:
            return ((model(x, lengths=lengths)[0][:, :, :4] - x) ** 2).mean()

        loss, gradients = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, gradients)
        return loss

    rng = np.random.default_rng(0)
    loss, before = None, (0, 0, 0)
    for number in range(steps):
        x = rng.normal(size=(8, 12, 4)).astype(np.float32)
        loss = step(model, optimizer, x, rng.integers(1, 13, 8))
        if number == WARM_UP:
            before = _counts(compiled)
    after = _counts(compiled)
    names = ("arrays", "bytes", "compiled programs")
    limits = (0, MOST_GROWTH, 0)
    for name, old, new, limit in zip(names, before, after, limits, strict=True):
        if new > old + limit:
            yield f"training: {new - old} more {name} after {steps} steps"
    if loss is None or not np.isfinite(loss):
        yield f"training: the loss is {loss}"


def _counts(compiled: list[str]) -> tuple[int, int, int]:
    """Living arrays, bytes of memory, compiled programs."""
    gc.collect()
    return len(jax.live_arrays()), resident(), len(compiled)
