"""Our modules under JAX's transformations: vmap, remat, forward mode."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

import flax_bilstm as fb
from flax_bilstm.recurrence import IMPLEMENTATIONS

# Two ways to the same numbers are compared here; how they round is judged elsewhere.
pytestmark = pytest.mark.usefixtures("quickly_compiled")

BATCH, TIME, IN, HIDDEN = 3, 4, 2, 3
X = jax.random.normal(jax.random.key(7), (BATCH, TIME, IN))
FLOAT32, FLOAT64 = 1e-6, 1e-14


def make_lstm(seed: int = 0, **options: Any) -> fb.LSTM:
    return fb.LSTM(IN, HIDDEN, **options, rngs=nnx.Rngs(seed))


def make_network(seed: int = 0, **options: Any) -> fb.BiLSTMWithAttention:
    return fb.BiLSTMWithAttention(IN, HIDDEN, 1, **options, rngs=nnx.Rngs(seed))


def mean_square(model: Any, x: jax.Array = X) -> jax.Array:
    y = model(x)
    return jnp.mean((y[0] if isinstance(y, tuple) else y) ** 2)


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
def test_forward_mode_through_scan_and_hessian_through_both() -> None:
    model = make_lstm(implementation="scan", param_dtype=jnp.float64)
    x = X[:1, :2].astype(jnp.float64)

    def f(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.tanh(model(x)[0]))

    tangent = jax.random.normal(jax.random.key(3), x.shape, x.dtype)
    gradient = jax.jit(jax.grad(f))
    forward = jax.jit(lambda x, tangent: jax.jvp(f, (x,), (tangent,))[1])(x, tangent)
    np.testing.assert_allclose(forward, jnp.vdot(gradient(x), tangent), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(f))(x), gradient(x), rtol=1e-12, atol=1e-15)
    default = make_lstm(param_dtype=jnp.float64)
    of_default = jax.jit(jax.hessian(lambda x: jnp.sum(jnp.tanh(default(x)[0]))))(x)
    np.testing.assert_allclose(of_default, jax.jit(jax.hessian(f))(x), rtol=1e-10, atol=1e-13)
    hessian = jax.jit(jax.hessian(f))(x).reshape(x.size, x.size)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-10, atol=1e-15)
    step = 1e-5
    difference = (gradient(x + step * tangent) - gradient(x - step * tangent)) / (2 * step)
    np.testing.assert_allclose(hessian @ tangent.ravel(), difference.ravel(), rtol=1e-6, atol=1e-9)


def test_forward_mode_needs_scan() -> None:
    model = make_network(implementation="fused")
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(model, (X,), (X,))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_shard_map_sums_the_gradients_of_weights_that_all_devices_share(
    assert_close: Callable[..., None], implementation: str
) -> None:
    options = {"implementation": implementation, "param_dtype": "float64"}
    graph, state = nnx.split(make_lstm(bidirectional=True, **options))
    x = jnp.concatenate([X, X[:1]]).astype("float64")  # (4, time, in), for two devices
    states = jnp.ones((2, 1, HIDDEN))  # shared too

    def loss(state: nnx.State, x: jax.Array) -> jax.Array:
        h_0 = jnp.broadcast_to(states, (2, len(x), HIDDEN))
        return jnp.sum(nnx.merge(graph, state)(x, (h_0, h_0))[0] ** 2)

    split = jax.shard_map(
        lambda x, state: jax.lax.psum(loss(state, x), "batch"),
        mesh=Mesh(jax.devices("cpu"), ("batch",)),
        in_specs=(PartitionSpec("batch"), PartitionSpec()),
        out_specs=PartitionSpec(),
    )
    actual = jax.jit(jax.grad(lambda state: split(x, state)))(state)
    expected = jax.jit(jax.grad(loss))(state, x)
    named = [
        {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (actual, expected)
    ]
    assert_close(*named, FLOAT64)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_without_jit_it_runs_step_by_step(
    assert_close: Callable[..., None], implementation: str
) -> None:
    lstm = make_lstm(bidirectional=True, implementation=implementation)
    expected = {"y": lstm(X)[0]}
    with jax.disable_jit():
        assert_close({"y": lstm(X)[0]}, expected, FLOAT32)
