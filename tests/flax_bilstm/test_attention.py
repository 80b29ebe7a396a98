"""Attention: softmax(y yᵀ) y, all queries or the last, over each sequence's own steps only."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm.attention import all_queries, last_query

BATCH, TIME, FEATURES = 3, 5, 4
LENGTHS = np.array([5, 1, 3])
QUERIES = {"all": all_queries, "last": last_query}
COMPILED = {name: jax.jit(function) for name, function in QUERIES.items()}


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def softmax_by_definition(y, matrix=None):
    """The published equations in NumPy, one sequence: score(query, key) = query · W key."""
    scores = y @ (y if matrix is None else y @ matrix.T).T
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights @ y, weights


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("score", ["dot", "general"])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_equations_on_each_sequence_alone(score, lengths):
    y = draw(BATCH, TIME, FEATURES)
    matrix = draw(FEATURES, FEATURES, seed=1) if score == "general" else None
    kernel = None if matrix is None else jnp.asarray(matrix.T)  # Flax's layout
    given = None if lengths is None else jnp.asarray(lengths)
    contexts, weights = map(np.asarray, COMPILED["all"](jnp.asarray(y), given, kernel))
    last = COMPILED["last"](jnp.asarray(y), given, kernel)
    last_contexts, last_weights = map(np.asarray, last)
    for b, n in enumerate([TIME] * BATCH if lengths is None else lengths):
        context, weight = softmax_by_definition(y[b, :n], matrix)
        np.testing.assert_allclose(contexts[b, :n], context, rtol=0, atol=1e-14)
        np.testing.assert_allclose(weights[b, :n, :n], weight, rtol=0, atol=1e-14)
        np.testing.assert_array_equal(contexts[b, n:], 0)
        np.testing.assert_array_equal(weights[b, n:], 0)
        np.testing.assert_array_equal(weights[b, :, n:], 0)
        np.testing.assert_allclose(last_contexts[b], context[-1], rtol=0, atol=1e-14)
        np.testing.assert_allclose(last_weights[b, :n], weight[-1], rtol=0, atol=1e-14)
        np.testing.assert_array_equal(last_weights[b, n:], 0)


@pytest.mark.parametrize("queries", QUERIES)
@pytest.mark.parametrize("filling", [np.nan, np.inf, 1e30])
def test_padding_changes_nothing(queries, filling):
    y = draw(BATCH, TIME, FEATURES).astype("f4")
    padded = np.where(np.arange(TIME)[None, :, None] < LENGTHS[:, None, None], y, filling)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def run(y):
        context, weights = QUERIES[queries](y, jnp.asarray(LENGTHS))
        return (context**2).sum() + (weights**2).sum(), (context, weights)

    for clean, filled in zip(
        jax.tree.leaves(run(y)), jax.tree.leaves(run(padded.astype("f4"))), strict=True
    ):
        np.testing.assert_array_equal(clean, filled)
    gradient = run(padded.astype("f4"))[1]
    np.testing.assert_array_equal(gradient[1, 1:], 0)


@pytest.mark.parametrize("queries", QUERIES)
def test_an_empty_sequence_gives_zeros_and_finite_gradients(queries):
    y = jnp.asarray(draw(2, TIME, FEATURES), jnp.float32)
    lengths = jnp.array([0, TIME])

    def loss(y):
        context, weights = QUERIES[queries](y, lengths)
        return (context**2).sum(), (context, weights)

    gradient, (context, weights) = jax.jit(jax.grad(loss, has_aux=True))(y)
    np.testing.assert_array_equal(context[0], 0)
    np.testing.assert_array_equal(weights[0], 0)
    np.testing.assert_array_equal(gradient[0], 0)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[1]).max() > 0


def test_the_last_query_is_linear_in_time():
    """Nothing as large as time × time: memory for twice the time is about twice as much."""

    def temporary_bytes(time):
        y = jax.ShapeDtypeStruct((1, time, FEATURES), jnp.float32)
        step = jax.jit(jax.grad(lambda y: last_query(y)[0].sum()))
        return step.lower(y).compile().memory_analysis().temp_size_in_bytes

    short, long = temporary_bytes(2048), temporary_bytes(8192)
    assert long <= 4.5 * short
    assert long < 8192 * 8192


def test_large_scores_do_not_overflow():
    y = 1e4 * draw(BATCH, TIME, FEATURES).astype("f4")
    context, weights = last_query(jnp.asarray(y))
    assert np.isfinite(context).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)


def module(score="dot", **options):
    return fb.Attention(FEATURES, score=score, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize("score", ["dot", "general"])
def test_module_runs_the_functions(score):
    attention = module(score)
    y = jnp.asarray(draw(BATCH, TIME, FEATURES), jnp.float32)
    kernel = attention.attn.kernel[...] if score == "general" else None
    for queries, function in QUERIES.items():
        for lengths in (None, jnp.asarray(LENGTHS)):
            context, weights = attention(y, queries=queries, lengths=lengths, return_weights=True)
            expected = function(y, None if lengths is None else lengths.astype("int32"), kernel)
            np.testing.assert_array_equal(context, expected[0])
            np.testing.assert_array_equal(weights, expected[1])
            np.testing.assert_array_equal(attention(y, queries=queries, lengths=lengths), context)


def test_what_is_trained():
    kinds = {"dot": (fb.Unused, fb.Unused), "general": (nnx.Param, fb.Unused)}
    for score, (kernel, bias) in kinds.items():
        attn = module(score).attn
        assert (type(attn.kernel), type(attn.bias)) == (kernel, bias)


def test_half_precision_weights_sum_in_float32():
    y = jnp.asarray(draw(1, 512, FEATURES), jnp.bfloat16)
    context, weights = last_query(y)
    truth, _ = softmax_by_definition(np.asarray(y[0], np.float64))
    assert context.dtype == weights.dtype == jnp.bfloat16
    np.testing.assert_allclose(context[0].astype("f4"), truth[-1], rtol=0, atol=0.03)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": np.zeros((2, 4), "f4")}, r"y: expected \(batch, time, features\).*\(2, 4\)"),
        ({"y": np.zeros((2, 3, 5), "f4")}, r"y: expected 4 features.*\(2, 3, 5\)"),
        ({"y": np.zeros((2, 3, 4), "i4")}, "y: expected a floating dtype, got int32"),
        ({"y": np.zeros((2, 0, 4), "f4")}, "y: expected at least 1 time step"),
        ({"queries": "first"}, 'queries: expected one of "all", "last", got \'first\''),
        ({"lengths": np.array([1, 2])}, r"lengths: expected 3 integers.*\(2,\)"),
        (
            {"lengths": np.array([1, 2, 6])},
            r"lengths: expected values from 1 to 5.*lengths\[2\] = 6",
        ),
        ({"lengths": np.array([0, 2, 5])}, r"lengths\[0\] = 0"),
    ],
)
def test_errors(arguments, message):
    given = {"y": np.zeros((BATCH, TIME, FEATURES), "f4")} | arguments
    with pytest.raises(ValueError, match=message):
        module()(given.pop("y"), **given)


@pytest.mark.usefixtures("unchecked")
def test_constructor_errors():
    with pytest.raises(ValueError, match="hidden_dim: expected an integer of at least 1, got 0"):
        fb.Attention(0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"score: expected one of .*, got 'cosine'"):
        module("cosine")
