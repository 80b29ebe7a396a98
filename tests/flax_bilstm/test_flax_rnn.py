"""What Flax's `nnx.RNN` and `nnx.Bidirectional` make of our cell is what our LSTM makes of it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb

# Two ways to the same numbers are compared here; how they round is judged elsewhere.
pytestmark = pytest.mark.usefixtures("quickly_compiled")

BATCH, TIME, IN, HIDDEN = 3, 4, 2, 3
X = jax.random.normal(jax.random.key(7), (BATCH, TIME, IN))
LENGTHS = jnp.array([4, 1, 3])
VALID = np.arange(TIME)[None, :, None] < np.asarray(LENGTHS)[:, None, None]
FLOAT32 = 1e-6


def make_lstm(seed: int = 0, **options: Any) -> fb.LSTM:
    return fb.LSTM(IN, HIDDEN, **options, rngs=nnx.Rngs(seed))


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "ragged"])
@pytest.mark.parametrize("proj_size", [0, 2])
def test_bidirectional_rnn_of_our_cells_is_our_lstm(
    lengths: jax.Array | None, proj_size: int, assert_close: Callable[..., None]
) -> None:
    lstm = make_lstm(bidirectional=True, proj_size=proj_size)
    layer = lstm.layers[0]
    rnn = nnx.Bidirectional(nnx.RNN(layer.forward), nnx.RNN(layer.reverse), return_carry=True)
    out = proj_size or HIDDEN
    h_0 = jax.random.normal(jax.random.key(1), (2, BATCH, out))
    c_0 = jax.random.normal(jax.random.key(2), (2, BATCH, HIDDEN))
    outputs, (h_n, c_n) = lstm(X, (h_0, c_0), lengths)
    carries, flax_outputs = rnn(
        X, initial_carry=((c_0[0], h_0[0]), (c_0[1], h_0[1])), seq_lengths=lengths
    )
    valid = VALID if lengths is not None else np.ones_like(VALID)  # Flax leaves the padding as is
    for direction, (c, h) in enumerate(carries):
        assert_close({"c": c, "h": h}, {"c": c_n[direction], "h": h_n[direction]}, FLOAT32)
    assert_close({"y": np.where(valid, flax_outputs, 0)}, {"y": outputs}, FLOAT32)


def test_rnn_conventions_reverse_time_major_and_start(assert_close: Callable[..., None]) -> None:
    cell = fb.LSTMCell(IN, HIDDEN, rngs=nnx.Rngs(0))
    lstm = make_lstm(bidirectional=True, time_major=True)
    lstm.layers[0].reverse = cell
    x = jnp.swapaxes(X, 0, 1)
    outputs, (h_n, c_n) = lstm(x)
    rnn = nnx.RNN(cell, time_major=True, reverse=True, return_carry=True)
    carry, kept = rnn(x, keep_order=True)  # starts from the cell's own carry: zeros
    _, flipped = rnn(x)
    expected = {"c_n": c_n[1], "h_n": h_n[1], "y": outputs[..., HIDDEN:]}
    assert_close({"c_n": carry[0], "h_n": carry[1], "y": kept}, expected, FLOAT32)
    assert_close({"y": flipped[::-1]}, {"y": kept}, FLOAT32)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_rnn_keeps_the_carry_wide_under_half_precision(
    dtype: Any, assert_identical: Callable[..., None]
) -> None:
    lstm = make_lstm(dtype=dtype, implementation="scan")
    carry, outputs = nnx.RNN(lstm.layers[0].forward, return_carry=True)(X)
    assert [state.dtype for state in carry] == [jnp.float32, dtype]
    expected, (h_n, c_n) = lstm(X)
    assert_identical((outputs, carry), (expected, (c_n[0], h_n[0])))


def test_carry_is_drawn_from_the_carry_stream(assert_identical: Callable[..., None]) -> None:
    cell = fb.LSTMCell(IN, HIDDEN, proj_size=2, rngs=nnx.Rngs(0))
    zeros = cell.initialize_carry((BATCH, IN), nnx.Rngs(0))
    assert_identical(zeros, (jnp.zeros((BATCH, HIDDEN)), jnp.zeros((BATCH, 2))))
    normal = nnx.initializers.normal(1.0)
    cell = fb.LSTMCell(IN, HIDDEN, rngs=nnx.Rngs(0))
    drawn = cell.initialize_carry((BATCH, IN), nnx.Rngs(carry=5), normal)
    again = cell.initialize_carry((BATCH, IN), nnx.Rngs(carry=5).carry, normal)
    assert_identical(drawn, again)
    assert not np.array_equal(*drawn)  # a key each
    other = cell.initialize_carry((BATCH, IN), nnx.Rngs(carry=6), normal)
    assert not np.array_equal(drawn[0], other[0])
    with pytest.raises(ValueError, match="rngs: expected"):
        cell.initialize_carry((BATCH, IN), None, normal)


@pytest.mark.usefixtures("x64")
def test_the_carry_follows_parameters_that_are_cast() -> None:
    """Flax starts a scan from it, which must give back the dtype that it takes."""
    cell = fb.LSTMCell(IN, HIDDEN, rngs=nnx.Rngs(0))
    graph, state = nnx.split(cell)
    cell = nnx.merge(graph, jax.tree.map(lambda leaf: leaf.astype(jnp.float64), state))
    carry, outputs = nnx.RNN(cell, return_carry=True)(X.astype(jnp.float64))
    assert {array.dtype for array in (*carry, outputs)} == {jnp.dtype(jnp.float64)}
