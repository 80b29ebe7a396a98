"""Every implementation through every case: the same numbers, the same gradients."""

import inspect
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import pytest
from jax.test_util import check_grads

from flax_bilstm import recurrence
from flax_bilstm.recurrence import IMPLEMENTATIONS, checkpointed, fused
from flax_bilstm.recurrence.equations import accumulation_dtype

from .one_direction import (
    BELOW,
    FROM,
    OTHERS,
    PROJECTED_OR_NOT,
    TIME,
    case,
    every,
    naming,
    reversed_or_not,
)


@partial(jax.jit, static_argnames=("implementation", "reverse"))
def results_and_gradients(implementation, arrays, reverse):
    """By name, compiled; the loss weighs every number of every result differently."""
    weights, x, state, valid = arrays

    def call(weights, x, state):
        outputs, final = IMPLEMENTATIONS[implementation](weights, x, state, valid, reverse)
        return {"outputs": outputs, "h_n": final.hidden, "c_n": final.cell}

    results, pull_back = jax.vjp(call, weights, x, state)
    d_weights, d_x, d_state = pull_back(jax.tree.map(jnp.cos, results))
    grads = {**d_weights._asdict(), "x": d_x, "h_0": d_state.hidden, "c_0": d_state.cell}
    return results | {f"d {name}": value for name, value in grads.items() if value is not None}


OPTIONS = {
    "plain": {"lengths": False},
    "projected": {"lengths": False, "proj": 2},
    "lengths": {},
    "lengths, bare": {"bias": False},
    "lengths, projected": {"proj": 2},
    "one step": {"lengths": False, "time": 1},
    "several segments": {"lengths": False, "time": checkpointed.LONGEST_SEGMENT + 2},
    "several segments, lengths": {"time": checkpointed.LONGEST_SEGMENT + 2},
}
CASES = {  # either side of the bound, either direction
    f"{name}, batch {batch}, {'reverse' if reverse else 'forward'}": (options, batch, reverse)
    for i, (name, options) in enumerate(OPTIONS.items())
    for batch, reverse in ((BELOW, bool(i % 2)), (FROM, not i % 2))
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("options", "batch", "reverse"), CASES.values(), ids=CASES)
def test_float64_equals_the_plain_implementation(assert_close, options, batch, reverse):
    arrays = case(jnp.float64, batch, **options)
    expected = results_and_gradients("scan", arrays, reverse)
    for implementation in OTHERS:
        actual = results_and_gradients(implementation, arrays, reverse)
        with naming(implementation):
            assert_close(actual, expected, 1e-13)


PRECISIONS = {jnp.float32: 2**-23, jnp.bfloat16: 2**-8, jnp.float16: 2**-11}


@pytest.mark.usefixtures("x64_beside_others")
@pytest.mark.parametrize(("batch", "proj", "implementations"), PROJECTED_OR_NOT)
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_lower_precision_comes_close_to_float64(assert_close, dtype, batch, proj, implementations):
    arrays = case(dtype, batch, proj=proj)
    widened = jax.tree.map(
        lambda a: a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a, arrays
    )
    truth = results_and_gradients("scan", widened, reverse=True)
    for implementation in implementations:
        actual = results_and_gradients(implementation, arrays, reverse=True)
        with naming(implementation):
            for name, value in actual.items():
                wide = name in ("c_n", "d c_0", "d bias_ih", "d bias_hh")
                expected = accumulation_dtype(jnp.dtype(dtype)) if wide else dtype
                assert value.dtype == expected, name
            assert_close(actual, truth, 8 * PRECISIONS[dtype])


@pytest.mark.usefixtures("x64")
@reversed_or_not
@pytest.mark.parametrize(
    ("batch", "proj", "implementation"),
    [(batch, proj, one) for batch, proj, some in PROJECTED_OR_NOT for one in some],
)
def test_gradients_against_finite_differences(batch, proj, reverse, implementation):
    *arrays, valid = case(jnp.float64, batch, proj=proj, time=3)
    run = jax.jit(lambda *arrays: IMPLEMENTATIONS[implementation](*arrays, valid, reverse))
    check_grads(run, arrays, order=1, modes=["rev"])


@pytest.mark.usefixtures("quickly_compiled")
@every
def test_vmap_over_models(assert_close, implementation):
    cases = [case(jnp.float32, lengths=False, seed=seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cases)

    def loss(weights, x, state, valid):
        outputs, _ = IMPLEMENTATIONS[implementation](weights, x, state, valid, True)
        return jnp.sum(outputs**2), outputs

    grad = jax.jit(jax.grad(loss, argnums=1, has_aux=True))
    d_x, outputs = jax.jit(jax.vmap(jax.grad(loss, argnums=1, has_aux=True)))(*stacked)
    for i, one in enumerate(cases):
        d_x_alone, alone = grad(*one)
        actual = {"outputs": outputs[i], "d x": d_x[i]}
        assert_close(actual, {"outputs": alone, "d x": d_x_alone}, 1e-6)


@pytest.mark.usefixtures("quickly_compiled")
@every
@reversed_or_not
def test_padded_steps_carry_the_state_and_give_0(assert_identical, implementation, reverse):
    weights, x, state, _ = case(jnp.float32, lengths=False)
    valid = jnp.zeros((TIME, 2, 1), bool)
    outputs, final = IMPLEMENTATIONS[implementation](weights, x, state, valid, reverse)
    assert not outputs.any()
    assert_identical(final, state)


@pytest.mark.usefixtures("quickly_compiled")
@every
def test_a_second_call_outside_of_jit_compiles_nothing(implementation):
    arrays = case(jnp.float32)
    run = IMPLEMENTATIONS[implementation]
    run(*arrays, False)
    before = run._cache_size()
    run(*arrays, False)
    assert run._cache_size() == before


@every
def test_lowers_for_every_platform(implementation):
    """Forward and backward, on a machine that has one of the three."""

    def loss(weights, x, state):
        outputs, final = IMPLEMENTATIONS[implementation](weights, x, state, None, True)
        return jnp.sum(outputs) + jnp.sum(final.cell)

    weights, x, state, _ = case("float32", lengths=False)
    platforms = ("cpu", "cuda", "tpu")
    exported = jax.export.export(jax.jit(jax.grad(loss)), platforms=platforms)(weights, x, state)
    assert exported.platforms == platforms
    assert "custom_call" not in exported.mlir_module()  # nothing that one of them might lack


def test_where_nothing_is_padded_native_masks_nothing_on_other_platforms():
    weights, x, state, _ = case("float32", lengths=False)
    texts = [
        jax.export.export(IMPLEMENTATIONS[name], platforms=("tpu",))(
            weights, x, state, None, reverse=True
        ).mlir_module()
        for name in ("fused", "native")
    ]
    assert texts[1].count("stablehlo.select") == texts[0].count("stablehlo.select")


def test_names():
    assert recurrence.resolve(None) is IMPLEMENTATIONS[recurrence.DEFAULT]
    for name, run in IMPLEMENTATIONS.items():
        assert recurrence.resolve(name) is run
    with pytest.raises(
        ValueError, match=r"expected None or one of \[.*'fused', .*'scan'.*\], got 'x'"
    ):
        recurrence.resolve("x")


def test_one_signature():
    signature = inspect.signature(recurrence.Implementation.__call__)
    expected = [name for name in signature.parameters if name != "self"]
    for name, run in IMPLEMENTATIONS.items():
        assert list(inspect.signature(run).parameters) == expected, name


@pytest.mark.parametrize(("batch", "products"), [(BELOW, 2), (FROM, 1)])
def test_the_product_with_the_input_is_hoisted_for_small_batches_alone(batch, products):
    """So that moving the bound does not leave one of its sides untested here."""
    jaxpr = jax.make_jaxpr(lambda *a: fused.run_direction(*a, False))(*case(jnp.float32, batch))
    assert str(jaxpr).count("dot_general") == products
