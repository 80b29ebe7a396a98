"""Calls with equal shapes: the second compiles nothing, and 50 of them need no more memory."""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import flax_bilstm as fb

COMPILED = "/jax/core/compile/backend_compile_duration"
CALLS = 50


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """One entry for each program that XLA has compiled since."""
    seen: list[str] = []

    def note(event: str, duration: float, **facts: Any) -> None:
        if event == COMPILED:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield seen
    jax.monitoring.unregister_event_duration_listener(note)


def eager() -> Callable[[], Any]:
    model = fb.BiLSTMWithAttention(3, 4, 2, rngs=nnx.Rngs(0))
    return lambda: model(np.ones((2, 5, 3), "f4"), lengths=np.array([5, 2]))


def compiled() -> Callable[[], Any]:
    model = fb.LSTM(3, 4, num_layers=2, dropout=0.5, bidirectional=True, rngs=nnx.Rngs(0))
    run = nnx.jit(lambda model, x: model(x))
    return lambda: run(model, jnp.ones((2, 5, 3)))


def training() -> Callable[[], Any]:
    model = fb.LSTM(3, 4, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(1e-3, momentum=0.9), wrt=nnx.Param)

    @nnx.jit
    def step(model: fb.LSTM, optimizer: nnx.Optimizer, x: jax.Array) -> jax.Array:
        loss, slopes = nnx.value_and_grad(lambda model: (model(x)[0] ** 2).mean())(model)
        optimizer.update(model, slopes)
        return loss

    return lambda: step(model, optimizer, jnp.ones((2, 5, 3)))


def conversion() -> Callable[[], Any]:
    model = fb.LSTM(3, 4, rngs=nnx.Rngs(0))
    return lambda: fb.load_state_dict(model, fb.state_dict(model))


@pytest.mark.parametrize("make", [eager, compiled, training, conversion])
def test_a_call_like_an_earlier_one_compiles_nothing(
    make: Callable[[], Callable[[], Any]], compilations: list[str]
) -> None:
    call = make()
    jax.block_until_ready(call())
    jax.block_until_ready(call())  # with the arrays that the first call has made
    before = len(compilations)
    for _ in range(3):
        jax.block_until_ready(call())
    assert len(compilations) == before


def test_compilations_are_counted(compilations: list[str]) -> None:
    jax.jit(lambda x: x + 1)(np.ones(7, "f4"))
    assert compilations


@pytest.mark.parametrize("make", [compiled, training])
def test_memory_does_not_grow(make: Callable[[], Callable[[], Any]]) -> None:
    call = make()
    for _ in range(5):
        jax.block_until_ready(call())
    gc.collect()
    arrays, objects = len(jax.live_arrays()), len(gc.get_objects())
    for _ in range(CALLS):
        jax.block_until_ready(call())
    gc.collect()
    assert len(jax.live_arrays()) == arrays
    assert len(gc.get_objects()) < objects + CALLS  # less than one for each call
