"""At home in JAX and Flax: their recurrent modules, transforms and optimizers run our models.

What Flax's `nnx.RNN` and `nnx.Bidirectional` make of our cell is what our LSTM makes of it.
"""

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
LENGTHS = jnp.array([4, 1, 3])
VALID = np.arange(TIME)[None, :, None] < np.asarray(LENGTHS)[:, None, None]
FLOAT32 = 1e-6


def make_lstm(seed: int = 0, **options: Any) -> fb.LSTM:
    return fb.LSTM(IN, HIDDEN, **options, rngs=nnx.Rngs(seed))


def make_network(seed: int = 0, **options: Any) -> fb.BiLSTMWithAttention:
    return fb.BiLSTMWithAttention(IN, HIDDEN, 1, **options, rngs=nnx.Rngs(seed))


def mean_square(model: Any, x: jax.Array = X) -> jax.Array:
    y = model(x)
    return jnp.mean((y[0] if isinstance(y, tuple) else y) ** 2)


# Flax's recurrent modules


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


# NNX's graph functions


def test_split_update_and_merge(assert_identical: Callable[..., None]) -> None:
    model = make_network()
    graphdef, params, unused = nnx.split(model, nnx.Param, fb.Unused)
    assert len(jax.tree.leaves(params)) == 10
    assert len(jax.tree.leaves(unused)) == 2
    assert_identical(nnx.merge(graphdef, params, unused)(X), model(X))
    doubled = nnx.merge(graphdef, jax.tree.map(lambda leaf: 2 * leaf, params), unused)
    assert not np.allclose(doubled(X), model(X))
    nnx.update(doubled, params)
    assert_identical(doubled(X), model(X))


def test_jit_traces_once_for_models_of_one_kind(assert_close: Callable[..., None]) -> None:
    traces = []

    @nnx.jit
    def run(model: fb.BiLSTMWithAttention, x: jax.Array, lengths: jax.Array) -> jax.Array:
        traces.append(model)
        return model(x, lengths=lengths)

    one, other = make_network(0), make_network(1)
    for model in (one, other, one):
        for lengths in (LENGTHS, LENGTHS[::-1]):
            expected = model(X, lengths=lengths)
            assert_close({"y": run(model, X, lengths)}, {"y": expected}, FLOAT32)
    assert len(traces) == 1
    run(make_network(0, implementation="scan"), X, LENGTHS)  # another program
    assert len(traces) == 2


def test_eval_shape_makes_no_arrays() -> None:
    model = nnx.eval_shape(make_network)
    kernel = model.fc.kernel.get_value()
    assert isinstance(kernel, jax.ShapeDtypeStruct)
    assert kernel.shape == (2 * HIDDEN, 1)
    assert nnx.eval_shape(lambda m, x: m(x), make_network(), X).shape == (BATCH, 1)
    outputs, (h_n, c_n) = nnx.eval_shape(lambda m, x: m(x), make_lstm(num_layers=2, proj_size=1), X)
    assert (outputs.shape, h_n.shape, c_n.shape) == ((3, 4, 1), (2, 3, 1), (2, 3, 3))


def test_display_shows_sizes_and_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    nnx.display(make_network())
    shown = capsys.readouterr().out
    for part in ("BiLSTMWithAttention", "hidden_size=3", "kernel_hh", "Unused", "bidirectional"):
        assert part in shown


def test_train_and_eval_switch_dropout_and_streams_are_apart(
    assert_identical: Callable[..., None],
) -> None:
    def make(**seeds: int) -> fb.LSTM:
        return fb.LSTM(IN, HIDDEN, num_layers=2, dropout=0.5, rngs=nnx.Rngs(**seeds))

    model, twin = make(params=0, dropout=1), make(params=0, dropout=2)
    assert_identical(
        nnx.to_pure_dict(nnx.state(model, nnx.Param)), nnx.to_pure_dict(nnx.state(twin, nnx.Param))
    )
    first, second = model(X)[0], model(X)[0]  # a new mask each time
    assert not np.array_equal(first, second)
    assert (first != 0).all()  # the last layer's output is not dropped
    assert not np.array_equal(first, twin(X)[0])
    assert_identical(make(params=0, dropout=1)(X)[0], first)
    for lstm in (model, twin):
        lstm.eval()
    assert_identical(model(X), model(X))
    assert_identical(model(X), twin(X))
    assert_identical(model(X), make_without_dropout(model)(X))
    model.train()
    assert not np.array_equal(model(X)[0], twin(X)[0])


def make_without_dropout(lstm: fb.LSTM) -> fb.LSTM:
    plain = make_lstm(seed=9, num_layers=lstm.num_layers)
    fb.load_state_dict(plain, fb.state_dict(lstm))
    return plain


# JAX's transformations


def test_vmap_over_models_is_an_ensemble(assert_close: Callable[..., None]) -> None:
    models = [make_network(seed) for seed in range(3)]
    expected = {"y": jnp.stack([model(X) for model in models])}
    graphdef = nnx.graphdef(models[0])
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(nnx.state, models))
    functional = jax.vmap(lambda state: nnx.merge(graphdef, state)(X))(states)
    assert_close({"y": functional}, expected, FLOAT32)
    ensemble = nnx.merge(graphdef, states)
    assert_close({"y": nnx.vmap(lambda model: model(X))(ensemble)}, expected, FLOAT32)


def test_vmap_makes_and_trains_an_ensemble() -> None:
    @nnx.split_rngs(splits=2)
    @nnx.vmap
    def make(rngs: nnx.Rngs) -> fb.LSTM:
        return fb.LSTM(IN, HIDDEN, rngs=rngs)

    ensemble = make(nnx.Rngs(0))
    kernel = ensemble.layers[0].forward.kernel_hh[...]
    assert kernel.shape == (2, HIDDEN, 4 * HIDDEN)
    assert not np.array_equal(kernel[0], kernel[1])
    gradients = nnx.jit(nnx.vmap(nnx.grad(mean_square)))(ensemble)
    gradient = nnx.jit(nnx.grad(mean_square))
    for i in range(2):
        member = jax.tree.map(lambda leaf, i=i: leaf[i], nnx.state(ensemble))
        alone = gradient(nnx.merge(nnx.graphdef(ensemble), member))
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-7),
            gradients,
            alone,
        )


@pytest.mark.parametrize("implementation", ["fused", "scan"])
@pytest.mark.parametrize("remat", [jax.checkpoint, nnx.remat], ids=["jax", "nnx"])
def test_rematerialization_changes_no_gradient(remat: Any, implementation: str) -> None:
    model = make_lstm(implementation=implementation)
    graphdef, state = nnx.split(model)
    plain = jax.jit(jax.grad(lambda state: mean_square(nnx.merge(graphdef, state))))(state)
    if remat is nnx.remat:
        again = nnx.jit(nnx.grad(lambda model: nnx.remat(mean_square)(model, X)))(model)
    else:
        forward = jax.checkpoint(lambda state: mean_square(nnx.merge(graphdef, state)))
        again = jax.jit(jax.grad(forward))(state)
    assert jax.tree.structure(again) == jax.tree.structure(plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8), again, plain)


@pytest.mark.usefixtures("x64")
def test_forward_mode_and_hessian_through_scan() -> None:
    model = make_lstm(implementation="scan", param_dtype=jnp.float64)
    x = X[:1, :2].astype(jnp.float64)

    def f(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.tanh(model(x)[0]))

    tangent = jax.random.normal(jax.random.key(3), x.shape, x.dtype)
    gradient = jax.jit(jax.grad(f))
    forward = jax.jit(lambda x, tangent: jax.jvp(f, (x,), (tangent,))[1])(x, tangent)
    np.testing.assert_allclose(forward, jnp.vdot(gradient(x), tangent), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(f))(x), gradient(x), rtol=1e-12, atol=1e-15)
    hessian = jax.jit(jax.hessian(f))(x).reshape(x.size, x.size)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-10, atol=1e-15)
    step = 1e-5
    difference = (gradient(x + step * tangent) - gradient(x - step * tangent)) / (2 * step)
    np.testing.assert_allclose(hessian @ tangent.ravel(), difference.ravel(), rtol=1e-6, atol=1e-9)


def test_forward_mode_needs_scan() -> None:
    model = make_network(implementation="fused")
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(model, (X,), (X,))


# Training and checkpoints


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
