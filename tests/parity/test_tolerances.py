import jax.numpy as jnp
import numpy as np
import pytest

from parity.tolerances import TOLERANCES, bound, nudged, nudged_inputs


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_the_bound_grows_with_the_reference_own_error_and_with_the_scale(dtype):
    row, epsilon = TOLERANCES[dtype], float(jnp.finfo(dtype).eps)
    assert bound(dtype, 0.0, 2.0) == pytest.approx(row.floor * epsilon * 2)
    assert bound(dtype, 10 * epsilon, 2.0) == pytest.approx(
        row.k * 10 * epsilon + row.floor * epsilon * 2
    )


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_nothing_passes_above_the_ceiling(dtype):
    assert bound(dtype, 2.0, 2.0) == TOLERANCES[dtype].ceiling * 2


def test_where_the_truth_is_zero_only_the_reference_own_error_allows_any():
    assert bound("float64", 0.0, 0.0) == 0.0


def test_no_bound_lets_lowered_precision_through():
    """A reference that is right to a few ULP allows less than TF32's half unit, 2⁻¹¹."""
    assert bound("float32", 8 * np.finfo(np.float32).eps, 1.0) < 2.0**-11 / 8
    assert TOLERANCES["float64"].ceiling <= 1e-10
    # And one that is right to one ULP in bfloat16 less than 8-bit floats' half unit, 2⁻⁴.
    assert bound("bfloat16", 2.0**-7, 1.0) < 2.0**-4


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_a_nudge_is_at_most_one_ulp_and_moves_about_two_thirds(dtype):
    array = np.random.default_rng(1).standard_normal(3000).astype(jnp.bfloat16)
    moved = nudged({"w": array}, dtype, seed=0)["w"]
    assert moved.dtype == dtype
    relative = np.abs(moved.astype(np.float64) / array.astype(np.float64) - 1)
    assert relative.max() <= 1.5 * float(jnp.finfo(dtype).eps)
    assert 0.5 < np.mean(moved != array) < 0.8


def test_nudges_depend_on_the_seed_alone_and_leave_zeros_and_integers():
    arrays = {"w": np.array([0.0, 1.0, -2.0, 3.0, 5.0]), "classes": np.array([1, 2])}
    first, again, other = (nudged(arrays, "float64", seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first["w"], again["w"])
    assert not np.array_equal(first["w"], other["w"])
    assert first["w"][0] == 0
    np.testing.assert_array_equal(first["classes"], [1, 2])


def test_the_target_is_not_nudged():
    inputs = {"x": np.ones(50), "target": np.ones(50)}
    moved = nudged_inputs(inputs, "float64", seed=0)
    assert not np.array_equal(moved["x"], inputs["x"])
    np.testing.assert_array_equal(moved["target"], inputs["target"])
