"""LSTM: what goes in and what comes out by shape and dtype, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb

SIZES = {"input_size": 3, "hidden_size": 4}


def make(**options):
    return fb.LSTM(**{**SIZES, **options}, rngs=nnx.Rngs(0))


def states(cells, *batch):
    return jnp.zeros((cells, *batch, 4)), jnp.zeros((cells, *batch, 4))


def test_time_major_and_unbatched_are_the_same_numbers(assert_close):
    lstm, major = make(bidirectional=True), make(bidirectional=True, time_major=True)
    x = jax.random.normal(jax.random.key(0), (1, 5, 3))
    outputs, (h_n, c_n) = lstm(x)
    expected = {"outputs": outputs[0], "h_n": h_n[:, 0], "c_n": c_n[:, 0]}
    turned, (h_major, c_major) = major(jnp.swapaxes(x, 0, 1))
    actual = {"outputs": turned[:, 0], "h_n": h_major[:, 0], "c_n": c_major[:, 0]}
    assert_close(actual, expected, 1e-6)
    alone, (h_alone, c_alone) = major(x[0])  # (time, features) either way
    assert_close({"outputs": alone, "h_n": h_alone, "c_n": c_alone}, expected, 1e-6)


def test_a_list_or_numpy_array_will_do(assert_identical):
    lstm = make()
    x = np.ones((2, 3, 3), np.float32)
    lengths = np.array([3, 2])
    expected = lstm(jnp.asarray(x), lengths=jnp.asarray(lengths))
    assert_identical(lstm(x, lengths=lengths), expected)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_size": 0}, "input_size: expected an integer of at least 1, got 0"),
        ({"hidden_size": -2}, "hidden_size: expected an integer of at least 1, got -2"),
        ({"hidden_size": 2.5}, "hidden_size: expected an integer of at least 1, got 2.5"),
        ({"num_layers": 0}, "num_layers: expected an integer of at least 1, got 0"),
        ({"num_layers": 10**9}, "num_layers: expected at most 10000, got 1000000000"),
        ({"num_layers": 10_001}, "num_layers: expected at most 10000, got 10001"),
        ({"num_layers": True}, "num_layers: expected an integer of at least 1, got True"),
        ({"proj_size": 4}, "proj_size: expected 0 .* less than hidden_size = 4, got 4"),
        ({"proj_size": -1}, "proj_size: expected 0 .* less than hidden_size = 4, got -1"),
        ({"dropout": 1.5}, "dropout: expected a probability from 0 to 1, got 1.5"),
        ({"dropout": -0.1}, "dropout: expected a probability from 0 to 1, got -0.1"),
        ({"dropout": True}, "dropout: expected a probability from 0 to 1, got True"),
        ({"implementation": "cudnn9"}, "implementation: expected None or one of .*'cudnn9'"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("x", "arguments", "message"),
    [
        (jnp.zeros(3), {}, r"x: expected \(batch, time, features\) or \(time, features\), got "
         r"shape \(3,\) of rank 1"),
        (jnp.zeros((1, 2, 5, 3)), {}, r"x: expected .* got shape \(1, 2, 5, 3\) of rank 4"),
        (jnp.zeros((2, 5, 4)), {}, r"x: expected 3 features .* got shape \(2, 5, 4\)"),
        (jnp.zeros((2, 5, 3), int), {}, r"x: expected a floating dtype, got int32"),
        (jnp.zeros((2, 5, 3), complex), {}, r"x: expected a floating dtype, got complex64"),
        (jnp.zeros((2, 0, 3)), {}, r"x: expected at least 1 time step on axis 1, got .*\(2, 0, 3"),
        (jnp.zeros((0, 3)), {}, r"x: expected at least 1 time step on axis 0, got .*\(0, 3"),
        (
            jnp.zeros((2, 5, 3)),
            {"initial_state": states(2, 2)},
            r"initial_state h_0: expected \(num_layers·directions, batch, features\) = \(1, 2, 4\),"
            r" floating, got shape \(2, 2, 4\)",
        ),
        (
            jnp.zeros((2, 5, 3)),
            {"initial_state": (states(1, 2)[0], states(1, 3)[0])},
            r"initial_state c_0: expected .*\(1, 2, 4\), floating, got shape \(1, 3, 4\)",
        ),
        (
            jnp.zeros((5, 3)),
            {"initial_state": states(1, 1)},
            r"initial_state h_0: expected \(num_layers·directions, features\) = \(1, 4\)",
        ),
        (
            jnp.zeros((2, 5, 3)),
            {"initial_state": (states(1, 2)[0].astype(int), states(1, 2)[0])},
            r"initial_state h_0: expected .* got .* dtype int32",
        ),
        (
            jnp.zeros((2, 5, 3)),
            {"initial_state": jnp.zeros((2, 1, 2, 4))},
            r"initial_state: expected the pair \(h_0, c_0\), got ArrayImpl",
        ),
        (
            jnp.zeros((5, 3)),
            {"lengths": jnp.array([5])},
            r"lengths: expected None with an unbatched x",
        ),
    ],
)  # fmt: skip
def test_bad_calls(x, arguments, message):
    with pytest.raises(ValueError, match=message):
        make()(x, **arguments)


def test_time_axis_of_0_is_found_on_the_time_axis():
    with pytest.raises(ValueError, match=r"at least 1 time step on axis 0, got shape \(0, 2, 3\)"):
        make(time_major=True)(jnp.zeros((0, 2, 3)))
    outputs, (h_n, c_n) = make()(jnp.zeros((0, 2, 3)))
    assert (outputs.shape, h_n.shape, c_n.shape) == ((0, 2, 4), (1, 0, 4), (1, 0, 4))


def test_shapes_are_refused_under_jit_too():
    lstm = make()
    with pytest.raises(ValueError, match="expected 3 features"):
        jax.jit(lambda x: lstm(x))(jnp.zeros((2, 5, 4)))
