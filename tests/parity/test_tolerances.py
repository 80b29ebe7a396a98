import jax.numpy as jnp
import numpy as np
import pytest

from parity.tolerances import TOLERANCES, bound


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
