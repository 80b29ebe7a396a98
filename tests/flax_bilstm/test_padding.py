"""Which lengths are accepted, and what each refusal says. For masks see test_mask.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm import padding

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_lengths_of_any_integer_dtype_become_int32(dtype):
    lengths = padding.checked_lengths(np.array([1, 5], dtype), 2, 5)
    assert lengths.dtype == jnp.int32
    assert lengths.tolist() == [1, 5]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 6], r"lengths: expected values from 1 to 5 .* got lengths\[1\] = 6 \(1 of 2 are out"),
        ([0, -1], r"lengths: expected values from 1 to 5 .* got lengths\[0\] = 0 \(2 of 2 are out"),
        ([1.0, 2.0], r"lengths: expected 2 integers, .*, shape \(2,\), got .* dtype float32"),
        ([1, 2, 3], r"lengths: expected 2 integers, .*, shape \(2,\), got shape \(3,\)"),
    ],
)
def test_other_lengths_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        padding.checked_lengths(jnp.array(value), 2, 5)


def test_lengths_of_unknown_value_pass_and_those_of_known_shape_do_not():
    traced = jax.jit(lambda lengths: padding.checked_lengths(lengths, 2, 5))
    assert traced(jnp.array([-7, 99])).tolist() == [0, 5]
    with pytest.raises(ValueError, match="lengths: expected 2 integers"):
        traced(jnp.array([1, 2, 3]))


def test_a_narrow_dtype_of_lengths_does_not_wrap():
    traced = jax.jit(lambda lengths: padding.checked_lengths(lengths, 2, 1000))
    assert traced(jnp.array([200, 255], jnp.uint8)).tolist() == [200, 255]
    assert traced(jnp.array([5, -128], jnp.int8)).tolist() == [5, 0]


def test_lengths_known_under_jit_are_checked_there():
    with pytest.raises(ValueError, match=r"lengths\[0\] = 0"):
        jax.jit(lambda x: x * padding.checked_lengths(np.array([0, 3]), 2, 5))(
            jnp.ones(2, jnp.int32)
        )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array([2**32, -(2**32) + 3]), [5, 0]),
        (np.array([2**32 - 1, 3], np.uint32), [5, 3]),
        (np.array([100, -100], np.int8), [5, 0]),
    ],
)
def test_no_length_wraps_under_jit(value, expected):
    clipped = jax.jit(lambda lengths: padding.checked_lengths(lengths, 2, 5))(jnp.asarray(value))
    np.testing.assert_array_equal(clipped, expected)


def test_a_time_that_a_narrow_dtype_cannot_hold():
    clipped = jax.jit(lambda v: padding.checked_lengths(v, 1, 1000))(jnp.array([100], jnp.int8))
    np.testing.assert_array_equal(clipped, [100])


@pytest.mark.parametrize("mask", [np.ones((3, 5), bool), np.ones((3, 5), np.int32)])
def test_a_mask_is_no_lengths(mask):
    with pytest.raises(ValueError, match=r"lengths: .* that of a mask; pass it as mask="):
        fb.LSTM(2, 3, rngs=nnx.Rngs(0))(np.ones((3, 5, 2), "f4"), lengths=mask)
