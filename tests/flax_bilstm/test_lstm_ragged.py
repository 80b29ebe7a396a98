"""Ragged batches: each sequence gives exactly what it gives alone, unpadded."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import example, given
from hypothesis import strategies as st
from jax.experimental import rnn

import flax_bilstm as fb
from flax_bilstm.recurrence import IMPLEMENTATIONS

BATCH, TIME, INPUTS, HIDDEN = 3, 5, 3, 4
OWN = np.array([5, 1, 3])  # lengths used where they do not vary
PADDING = np.arange(TIME) >= OWN[:, None]  # (batch, time)

every_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def make(implementation, param_dtype=jnp.float32, **options):
    options = {"num_layers": 2, "bidirectional": True, "proj_size": 2, **options}
    return fb.LSTM(
        INPUTS, HIDDEN, **options, implementation=implementation, param_dtype=param_dtype,
        rngs=nnx.Rngs(0),
    )  # fmt: skip


def arrays(lstm, dtype, seed=0):
    """x and initial state."""
    rng = np.random.default_rng(seed)
    cells, out = lstm.num_layers * lstm.num_directions, lstm.proj_size or HIDDEN
    shapes = (BATCH, TIME, INPUTS), (cells, BATCH, out), (cells, BATCH, HIDDEN)
    x, h_0, c_0 = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    return x, (h_0, c_0)


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def run(request):
    """A float64 LSTM, compiled: (x, initial state, lengths) → outputs and final states."""
    with jax.enable_x64(True):
        lstm = make(request.param, jnp.float64)
    return lstm, jax.jit(lambda x, state, lengths=None: lstm(x, state, lengths))


@pytest.mark.usefixtures("x64")
@example(lengths=[1, 1, 1], seed=0)
@example(lengths=[5, 5, 5], seed=0)
@example(lengths=[5, 1, 3], seed=0)
@given(
    lengths=st.lists(st.integers(1, TIME), min_size=BATCH, max_size=BATCH),
    seed=st.integers(0, 3),
)
def test_each_sequence_gives_what_it_gives_alone(assert_close, run, lengths, seed):
    lstm, call = run
    x, (h_0, c_0) = arrays(lstm, jnp.float64, seed)
    outputs, (h_n, c_n) = call(x, (h_0, c_0), jnp.array(lengths))
    for i, length in enumerate(lengths):
        one = slice(i, i + 1)
        alone, (h_alone, c_alone) = call(x[one, :length], (h_0[:, one], c_0[:, one]))
        actual = {"outputs": outputs[one, :length], "h_n": h_n[:, one], "c_n": c_n[:, one]}
        assert_close(actual, {"outputs": alone, "h_n": h_alone, "c_n": c_alone}, 1e-14)
        assert not outputs[i, length:].any()


@pytest.mark.usefixtures("quickly_compiled")
@every_implementation
def test_nothing_that_stands_in_the_padding_has_an_effect(assert_identical, implementation):
    lstm = make(implementation)
    graph, parameters = nnx.split(lstm)
    x, state = arrays(lstm, jnp.float32)

    @jax.jit
    def run(parameters, x, state):
        def loss(parameters, x, state):
            outputs, (h_n, c_n) = nnx.merge(graph, parameters)(x, state, jnp.asarray(OWN))
            return jnp.sum(outputs**2) + jnp.sum(h_n**2) + jnp.sum(c_n**2), (outputs, h_n, c_n)

        return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(parameters, x, state)

    expected = run(parameters, x, state)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(expected))
    d_x = expected[1][1]
    assert not np.asarray(d_x)[PADDING].any()
    for filling in (np.nan, np.inf, -np.inf, 3e38):
        filled = jnp.where(PADDING[:, :, None], jnp.float32(filling), x)
        assert_identical(run(parameters, filled, state), expected)


@pytest.mark.usefixtures("quickly_compiled")
@every_implementation
def test_other_lengths_do_not_compile_again(implementation):
    lstm = make(implementation)
    x, state = arrays(lstm, jnp.float32)
    traces = []

    @jax.jit
    def call(x, lengths):
        traces.append(None)
        return lstm(x, state, lengths)[0]

    results = [call(x, jnp.array(own)) for own in ([5, 1, 3], [1, 2, 3], [5, 5, 5])]
    assert len(traces) == 1
    assert (results[0] != results[1]).any()


@pytest.mark.usefixtures("quickly_compiled")
@every_implementation
def test_lengths_out_of_range_under_jit(assert_identical, implementation):
    lstm = make(implementation, num_layers=1, proj_size=0)
    x, (h_0, c_0) = arrays(lstm, jnp.float32)

    @jax.jit
    def run(x, state, lengths):
        def loss(x, state):
            outputs, final = lstm(x, state, lengths)
            return jnp.sum(outputs) + sum(map(jnp.sum, final)), (outputs, *final)

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(x, state)

    grads, (outputs, h_n, c_n) = run(x, (h_0, c_0), jnp.array([0, -7, 99]))
    assert not outputs[:2].any()
    assert_identical((h_n[:, :2], c_n[:, :2]), (h_0[:, :2], c_0[:, :2]))
    _, (full, h_full, c_full) = run(x, (h_0, c_0), jnp.array([5, 5, 5]))
    assert_identical((outputs[2], h_n[:, 2], c_n[:, 2]), (full[2], h_full[:, 2], c_full[:, 2]))
    d_x, (d_h, d_c) = grads
    assert all(jnp.isfinite(grad).all() for grad in (d_x, d_h, d_c))
    assert not d_x[:2].any()
    assert (d_h[:, :2] == 1).all()  # an empty sequence hands its state through
    assert (d_c[:, :2] == 1).all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([5, 0, 3], r"lengths: expected values from 1 to 5 .* got lengths\[1\] = 0 \(1 of 3"),
        ([5, 1, -2], r"lengths: expected values from 1 to 5 .* got lengths\[2\] = -2 \(1 of 3"),
        ([6, 1, 7], r"lengths: expected values from 1 to 5 .* got lengths\[0\] = 6 \(2 of 3"),
        ([5.0, 1.0, 3.0], r"lengths: expected 3 integers, .* got shape \(3,\) and dtype float"),
        ([True, True, True], r"lengths: expected 3 integers, .* dtype bool"),
        ([5, 1], r"lengths: expected 3 integers, .* \(3,\), got shape \(2,\)"),
        ([[5], [1], [3]], r"lengths: expected shape \(3,\), got shape \(3, 1\)"),
        (5, r"lengths: expected 3 integers, .* got shape \(\)"),
    ],
)
def test_bad_lengths(lengths, message):
    with pytest.raises(ValueError, match=message):
        make(None)(jnp.zeros((BATCH, TIME, INPUTS)), lengths=np.asarray(lengths))


def test_shape_and_dtype_of_lengths_are_refused_under_jit_too():
    lstm = make(None)
    call = jax.jit(lambda x, lengths: lstm(x, lengths=lengths))
    for lengths in (jnp.ones(2, int), jnp.ones(BATCH)):
        with pytest.raises(ValueError, match="lengths: expected 3 integers"):
            call(jnp.zeros((BATCH, TIME, INPUTS)), lengths)


@pytest.mark.usefixtures("x64")
@every_implementation
@pytest.mark.parametrize("bidirectional", [False, True])
def test_against_the_reference_in_jax(assert_close, bidirectional, implementation):
    """`lstm_ref` is JAX's own definition of what cuDNN computes, ragged batches included."""
    lstm = make(implementation, jnp.float64, bidirectional=bidirectional, proj_size=0)
    x, (h_0, c_0) = arrays(lstm, jnp.float64)
    torch_names = fb.state_dict(lstm)
    suffixes = [
        f"_l{k}{reverse}" for k in range(2) for reverse in ("", "_reverse")[: 1 + bidirectional]
    ]
    weights = [
        {i: torch_names[kind + suffix] for i, suffix in enumerate(suffixes)}
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]
    reference = partial(
        rnn.lstm_ref, input_size=INPUTS, hidden_size=HIDDEN, num_layers=2, dropout=0.0,
        bidirectional=bidirectional,
    )  # fmt: skip
    own = jnp.asarray(OWN, jnp.int32)
    expected = jax.jit(reference)(x, h_0, c_0, *weights, seq_lengths=own)
    outputs, (h_n, c_n) = jax.jit(lambda x, state: lstm(x, state, OWN))(x, (h_0, c_0))
    actual = {"outputs": outputs, "h_n": h_n, "c_n": c_n}
    assert_close(actual, dict(zip(actual, expected, strict=True)), 1e-13)
