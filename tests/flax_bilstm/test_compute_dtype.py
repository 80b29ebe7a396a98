"""dtype and param_dtype, as in Flax: what is computed in which, and what stays float32."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm.recurrence import IMPLEMENTATIONS, fused

F32, BF16, F16 = (jnp.dtype(name) for name in ("float32", "bfloat16", "float16"))
BATCHES = {"hoisted": 2, "in the loop": fused.HOIST_BELOW_BATCH}

every_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def run_abstractly(dtype, param_dtype, x_dtype, implementation=None):
    """Dtypes of everything that comes out, without computing it."""
    model = fb.BiLSTMWithAttention(
        3, 4, 2, dtype=dtype, param_dtype=param_dtype, implementation=implementation,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def run(params, x):
        model = nnx.merge(graph, params, rest)
        outputs, final = model.lstm(x)
        y, weights = model(x, return_attention=True, lengths=jnp.array([3, 1]))
        return jnp.sum(y), (outputs, *final, weights, y)

    grad = jax.grad(run, argnums=(0, 1), has_aux=True)
    shapes = jax.eval_shape(grad, params, jax.ShapeDtypeStruct((2, 5, 3), x_dtype))
    (d_params, d_x), results = jax.tree.map(lambda leaf: leaf.dtype, shapes)
    return results, set(jax.tree.leaves(d_params)), d_x


@pytest.mark.parametrize(
    ("dtype", "param_dtype", "x_dtype"),
    list(itertools.product([None, F32, BF16, F16], [F32, BF16, F16], [F32, BF16])),
)
def test_results_have_the_compute_dtype_and_gradients_their_own(dtype, param_dtype, x_dtype):
    compute = dtype
    if dtype is None:  # as Flax: what the parameters and x promote to
        compute = param_dtype if param_dtype == x_dtype else F32
    (outputs, h_n, c_n, weights, y), d_params, d_x = run_abstractly(dtype, param_dtype, x_dtype)
    assert (outputs, h_n, weights, y) == (compute,) * 4
    assert c_n == F32  # the cell state, whatever the rest
    assert d_params == {param_dtype}
    assert d_x == x_dtype


@pytest.mark.usefixtures("x64")
def test_float64_throughout():
    f64 = jnp.dtype("float64")
    results, d_params, d_x = run_abstractly(None, f64, f64)
    assert {*results, *d_params, d_x} == {f64}
    results, d_params, d_x = run_abstractly(None, F32, f64)  # promotes, and casts back
    assert (set(results), d_params, d_x) == ({f64}, {F32}, f64)


def equations(jaxpr):
    """All of a jaxpr's equations, inner ones included."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in jax.tree.leaves(equation.params):
            inner = getattr(parameter, "jaxpr", parameter)  # of a closed one
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def gradient_jaxpr(implementation, dtype, batch):
    lstm = fb.LSTM(3, 4, proj_size=2, dtype=dtype, implementation=implementation, rngs=nnx.Rngs(0))
    graph, params = nnx.split(lstm)

    def loss(params, x, state):
        outputs, (h_n, c_n) = nnx.merge(graph, params)(x, state)
        return sum(jnp.sum(value.astype(F32)) for value in (outputs, h_n, c_n))

    state = (jnp.ones((1, batch, 2), dtype), jnp.ones((1, batch, 4)))
    return jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(
        params, jnp.ones((batch, 5, 3), dtype), state
    ).jaxpr


@every_implementation
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("dtype", [BF16, F16])
def test_forward_products_take_half_precision_and_sum_in_float32(dtype, batch, implementation):
    lstm = fb.LSTM(3, 4, proj_size=2, dtype=dtype, implementation=implementation, rngs=nnx.Rngs(0))
    jaxpr = jax.make_jaxpr(lambda x: lstm(x))(jnp.ones((batch, 5, 3), dtype)).jaxpr
    products = [e for e in equations(jaxpr) if e.primitive.name == "dot_general"]
    assert len(products) >= 2
    for product in products:
        assert [v.aval.dtype for v in product.invars] == [dtype, dtype]
        assert [v.aval.dtype for v in product.outvars] == [F32]


@every_implementation
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_no_product_of_forward_or_backward_sums_in_half_precision(batch, implementation):
    products = [
        e for e in equations(gradient_jaxpr(implementation, BF16, batch))
        if e.primitive.name == "dot_general"
    ]  # fmt: skip
    assert len(products) >= 6  # of x, h and the projection, and the gradients of each
    for product in products:
        assert [v.aval.dtype for v in product.outvars] == [F32]


@pytest.mark.parametrize("score", ["dot", "general"])
def test_no_product_of_the_network_sums_in_half_precision(score):
    model = fb.BiLSTMWithAttention(3, 4, 2, score=score, dtype=BF16, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, x):
        return jnp.sum(nnx.merge(graph, params, rest)(x).astype(F32))

    jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(params, jnp.ones((2, 5, 3), BF16)).jaxpr
    products = [e for e in equations(jaxpr) if e.primitive.name == "dot_general"]
    assert {v.aval.dtype for product in products for v in product.outvars} == {F32}


@every_implementation
@pytest.mark.parametrize("dtype", [BF16, F16])
def test_the_cell_state_and_its_gradient_are_carried_in_float32(dtype, implementation):
    """Both take 64 steps of about 1/1024 away from 1: half precision would lose each of them."""
    lstm = fb.LSTM(3, 4, dtype=dtype, implementation=implementation, rngs=nnx.Rngs(0))
    cell = lstm.layers[0].forward
    for variable in (cell.kernel_ih, cell.kernel_hh, cell.bias_hh):
        variable.set_value(jnp.zeros_like(variable[...]))
    small, opened = -6.93, 30.0  # σ: about 1/1024, and 1; so is tanh of the latter
    cell.bias_ih.set_value(jnp.repeat(jnp.array([small, opened, opened, small]), 4))

    def run(c_0):
        outputs, (_, c_n) = lstm(jnp.zeros((1, 64, 3), dtype), (jnp.zeros((1, 1, 4), dtype), c_0))
        return jnp.sum(outputs.astype(F32)) + jnp.sum(c_n), c_n

    d_c_0, c_n = jax.grad(run, has_aux=True)(jnp.ones((1, 1, 4)))
    rounding = 64 * float(jnp.finfo(F32).eps)  # one float32 unit a step
    gate = 1 / (1 + np.exp(-small))
    cells = 1 + gate * np.arange(1, 65)
    np.testing.assert_allclose(c_n, np.full((1, 1, 4), cells[-1]), rtol=rounding)
    expected = 1 + np.sum(gate * (1 - np.tanh(cells) ** 2))
    np.testing.assert_allclose(d_c_0, np.full((1, 1, 4), expected), rtol=rounding)


@every_implementation
def test_a_small_addition_to_a_large_cell_state_is_not_lost(implementation):
    """c' = c + 2⁻¹⁰: bfloat16 would round it back to c = 1 at every step, for ever."""
    lstm = fb.LSTM(1, 1, dtype=BF16, implementation=implementation, rngs=nnx.Rngs(0))
    cell = lstm.layers[0].forward
    for kernel in (cell.kernel_ih, cell.kernel_hh):
        kernel[...] = jnp.zeros_like(kernel[...])
    cell.bias_ih[...] = jnp.array([60.0, 60.0, 2.0**-10, 60.0])  # i = f = o = 1
    cell.bias_hh[...] = jnp.zeros(4)
    state = (jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1)))
    _, (_, c_n) = lstm(jnp.ones((1, 256, 1)), state)
    assert c_n.item() == pytest.approx(1 + 256 * 2.0**-10, rel=1e-4)


def test_a_dtype_that_is_not_floating():
    with pytest.raises(ValueError, match="dtype: expected a floating dtype or None, got 'int32'"):
        fb.LSTM(3, 4, dtype="int32", rngs=nnx.Rngs(0))
