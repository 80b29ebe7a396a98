"""The pure functions: what each gate does, what padding does, what is summed in which dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_bilstm.recurrence import equations as recurrence
from flax_bilstm.recurrence.equations import State, Weights

INPUTS, HIDDEN = 3, 4
ATOL = 2 * np.finfo(np.float32).eps  # values below 2; tanh is good to two units there
OPEN, SHUT = 60.0, -60.0  # σ is 1 and 0 there, to the last bit of float32


def weights(gates=(0.0, 0.0, 0.0, 0.0), kernel_hr=None):
    """Kernels of 0 and biases that set the gates i, f, g, o, half of each in either bias."""
    bias = jnp.repeat(jnp.array(gates, jnp.float32), HIDDEN) / 2
    out = HIDDEN if kernel_hr is None else kernel_hr.shape[1]
    zeros = (jnp.zeros((size, 4 * HIDDEN)) for size in (INPUTS, out))
    return Weights(*zeros, bias_ih=bias, bias_hh=bias, kernel_hr=kernel_hr)


X = jnp.ones((2, INPUTS))
STATE = State(jnp.full((2, HIDDEN), 0.25), jnp.linspace(-1, 1, 2 * HIDDEN).reshape(2, HIDDEN))


@pytest.mark.parametrize(
    ("gates", "cell"),
    [
        ((SHUT, OPEN, 0.5, OPEN), STATE.cell),  # forget open: kept as it was
        ((SHUT, SHUT, 0.5, OPEN), jnp.zeros((2, HIDDEN))),  # both shut: gone
        ((OPEN, SHUT, 0.5, OPEN), jnp.full((2, HIDDEN), np.tanh(0.5))),  # input open: g alone
        ((OPEN, OPEN, -0.5, OPEN), STATE.cell + np.tanh(-0.5)),
    ],
)
def test_input_forget_and_cell_gate(gates, cell):
    new = recurrence.cell_step(weights(gates), STATE, X)
    np.testing.assert_allclose(new.cell, cell, rtol=0, atol=ATOL)
    np.testing.assert_allclose(new.hidden, np.tanh(cell), rtol=0, atol=ATOL)


@pytest.mark.parametrize(("gate", "factor"), [(SHUT, 0.0), (0.0, 0.5), (OPEN, 1.0)])
def test_output_gate(gate, factor):
    new = recurrence.cell_step(weights((SHUT, OPEN, 0.0, gate)), STATE, X)
    np.testing.assert_allclose(new.hidden, factor * np.tanh(STATE.cell), rtol=0, atol=ATOL)


def test_the_preactivations_are_the_sum_of_both_products_and_both_biases():
    keys = iter(jax.random.split(jax.random.key(0), 6))
    kernel_ih, kernel_hh, b_ih, b_hh, x, h = (
        jax.random.normal(next(keys), shape)
        for shape in ((3, 16), (4, 16), (16,), (16,), (2, 3), (2, 4))
    )
    z = recurrence.gate_preactivations(Weights(kernel_ih, kernel_hh, b_ih, b_hh, None), h, x)
    bare = recurrence.gate_preactivations(Weights(kernel_ih, kernel_hh, None, None, None), h, x)
    kernel_ih, kernel_hh, b_ih, b_hh, x, h = (
        np.asarray(a, np.float64) for a in (kernel_ih, kernel_hh, b_ih, b_hh, x, h)
    )
    truth = x @ kernel_ih + h @ kernel_hh
    np.testing.assert_allclose(bare, truth, rtol=0, atol=2e-6)
    np.testing.assert_allclose(z, truth + b_ih + b_hh, rtol=0, atol=2e-6)


def test_a_projection_is_of_the_hidden_state_alone():
    kernel_hr = jnp.arange(HIDDEN * 2.0).reshape(HIDDEN, 2)
    state = State(jnp.zeros((2, 2)), STATE.cell)
    new = recurrence.cell_step(weights((SHUT, OPEN, 0.0, OPEN), kernel_hr), state, X)
    np.testing.assert_allclose(new.hidden, np.tanh(STATE.cell) @ kernel_hr, rtol=1e-6)
    np.testing.assert_array_equal(new.cell, STATE.cell)


def test_any_leading_axes():
    one = recurrence.cell_step(weights((0.1, 0.2, 0.3, 0.4)), State(*(s[0] for s in STATE)), X[0])
    many = recurrence.cell_step(
        weights((0.1, 0.2, 0.3, 0.4)), State(*(s[None] for s in STATE)), X[None]
    )
    assert many.hidden.shape == (1, 2, HIDDEN)
    np.testing.assert_array_equal(many.hidden[0, 0], one.hidden)


def test_validity_and_where_valid():
    valid = recurrence.validity(jnp.array([2, 0, 3]), 3)
    expected = [[True, False, True], [True, False, True], [False, False, True]]
    assert valid.shape == (3, 3, 1)
    assert valid[..., 0].tolist() == expected
    new, old = jnp.full((3, 3, 2), jnp.nan), jnp.ones((3, 3, 2))
    mixed = recurrence.where_valid(valid, new, old)
    assert (jnp.isnan(mixed[..., 0]) == jnp.array(expected)).all()
    assert not recurrence.where_valid(valid, new, None)[~np.array(expected)].any()
    assert recurrence.where_valid(None, new, old) is new


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (jnp.bfloat16, jnp.float32),
        (jnp.float16, jnp.float32),
        (jnp.float32, jnp.float32),
        (np.float64, np.float64),
    ],
)
def test_accumulation_dtype(dtype, wide):
    assert recurrence.accumulation_dtype(jnp.dtype(dtype)) == wide


def test_products_of_half_precision_are_summed_in_float32():
    # 2048 + 1 is 2048 in float16, so a sum kept there would stay at 2048.
    a, b = jnp.ones((1, 4096), jnp.float16), jnp.ones((4096, 1), jnp.float16)
    product = recurrence.matmul(a, b)
    assert product.dtype == jnp.float32
    assert product.item() == 4096
