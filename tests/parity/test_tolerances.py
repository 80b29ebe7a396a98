import jax.numpy as jnp
import numpy as np
import pytest

from parity.tolerances import TOLERANCES, bound, determined


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_the_bound_grows_with_the_reference_own_error_and_with_the_scale(dtype):
    row, epsilon = TOLERANCES[dtype], float(jnp.finfo(dtype).eps)
    assert bound(dtype, 0.0, 2.0) == pytest.approx(row.floor * epsilon * 2)
    assert bound(dtype, 10 * epsilon, 2.0) == pytest.approx(
        row.k * 10 * epsilon + row.floor * epsilon * 2
    )


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_what_is_beyond_the_ceiling_is_undetermined_by_the_reference_alone(dtype):
    row = TOLERANCES[dtype]
    most = row.ceiling * 2 / row.k
    assert determined(dtype, most * 0.99, 2.0)
    assert not determined(dtype, most * 1.01, 2.0)


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_numbers_below_the_smallest_normal_one_may_be_zero(dtype):
    tiny = float(jnp.finfo(dtype).smallest_normal)
    assert tiny < bound(dtype, 0.0, tiny / 4) < 1e3 * tiny
    assert determined(dtype, tiny / 4, tiny / 4)
    assert bound(dtype, 0.0, 0.0) < 1e3 * tiny
    assert determined(dtype, 0.0, 0.0)


def test_no_bound_lets_lowered_precision_through():
    """A reference that is right to a few ULP allows less than TF32's half unit, 2⁻¹¹."""
    assert bound("float32", 8 * np.finfo(np.float32).eps, 1.0) < 2.0**-11 / 8
    assert TOLERANCES["float64"].ceiling <= 1e-10
    # And one that is right to one ULP in bfloat16 less than 8-bit floats' half unit, 2⁻⁴.
    assert bound("bfloat16", 2.0**-7, 1.0) < 2.0**-4
