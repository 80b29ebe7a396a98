"""Our modules in optax's hands, and saved: pickled, and by Orbax."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import flax_bilstm as fb

# Two ways to the same numbers are compared here; how they round is judged elsewhere.
pytestmark = pytest.mark.usefixtures("quickly_compiled")

BATCH, TIME, IN, HIDDEN = 3, 4, 2, 3
X = jax.random.normal(jax.random.key(7), (BATCH, TIME, IN))


def make_network(seed: int = 0, **options: Any) -> fb.BiLSTMWithAttention:
    return fb.BiLSTMWithAttention(IN, HIDDEN, 1, **options, rngs=nnx.Rngs(seed))


@pytest.mark.usefixtures("standard_promotion")
def test_optax_learns_the_sign_of_the_sum_and_leaves_the_unused_alone() -> None:
    model = make_network()
    before = jax.tree.map(np.asarray, fb.state_dict(model))
    optimizer = nnx.Optimizer(model, optax.adamw(3e-2, weight_decay=0.1), wrt=nnx.Param)
    x = jax.random.normal(jax.random.key(0), (64, TIME, IN))
    target = (x.sum((1, 2)) > 0).astype(jnp.float32)

    @nnx.jit
    def step(model: fb.BiLSTMWithAttention, optimizer: nnx.Optimizer) -> jax.Array:
        def loss(model: fb.BiLSTMWithAttention) -> jax.Array:
            return optax.sigmoid_binary_cross_entropy(model(x)[:, 0], target).mean()

        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    losses = [float(step(model, optimizer)) for _ in range(60)]
    assert losses[0] > 0.6
    assert losses[-1] < 0.2
    for name, tensor in fb.state_dict(model).items():
        if name.startswith("attention.attn."):
            np.testing.assert_array_equal(tensor, before[name])
        else:
            assert np.abs(tensor - before[name]).max() > 1e-2, name


def test_state_pickles(assert_identical: Callable[..., None]) -> None:
    model = make_network()
    graphdef, state = pickle.loads(pickle.dumps(nnx.split(model)))
    assert_identical(nnx.merge(graphdef, state)(X), model(X))
    assert_identical(pickle.loads(pickle.dumps(model))(X), model(X))


def test_orbax_saves_and_restores(tmp_path: Path, assert_identical: Callable[..., None]) -> None:
    orbax = pytest.importorskip("orbax.checkpoint")
    model, other = make_network(0), make_network(1)
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "model", nnx.to_pure_dict(nnx.state(model)))
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(
            tmp_path / "model", nnx.to_pure_dict(nnx.state(nnx.eval_shape(make_network)))
        )
    nnx.update(other, restored)
    assert_identical(fb.state_dict(other), fb.state_dict(model))
