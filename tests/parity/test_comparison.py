import numpy as np
import pytest

from parity.comparison import identical

PLACE = {"note": "moved", "case": "c", "check": "parameters", "dtype": "", "name": "w"}
W = np.array([[1.0, 0.0], [-2.5, 3.0]], np.float32)


def test_identical_passes_a_copy_whatever_its_memory_layout():
    row = identical(W, np.asfortranarray(W), **PLACE)
    assert row.passed
    assert not row.note
    assert identical(np.float32(2).reshape(()), np.full((), 2, np.float32), **PLACE).passed
    assert identical(None, None, **PLACE).passed
    assert identical(W[:0], W[:0], **PLACE).passed


@pytest.mark.parametrize(
    ("index", "value", "distance"),
    [((0, 0), np.nextafter(np.float32(1), np.float32(2)), 2.0**-23), ((0, 1), -0.0, 0.0)],
    ids=["one ULP", "the sign of zero"],
)
def test_identical_fails_where_one_bit_differs(index, value, distance):
    changed = W.copy()
    changed[index] = value
    row = identical(W, changed, **PLACE)
    assert not row.passed
    assert (row.where, row.distance) == (index, distance)
    assert row.note.startswith("moved: ")


def test_identical_tells_integers_apart_that_float64_cannot():
    large = np.array([2**53], np.int64)
    row = identical(large, large + 1, **PLACE)
    assert not row.passed
    assert row.where == (0,)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32])
def test_identical_fails_where_the_dtype_differs(dtype):
    ones = np.ones(2, np.float32)
    row = identical(ones, ones.astype(dtype), **PLACE)
    assert not row.passed
    assert f"the reference is float32, the candidate {np.dtype(dtype)}" in row.note


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_identical_fails_where_both_are_not_finite(value):
    bad = np.array([value], np.float32)
    assert not identical(bad, bad, **PLACE).passed


def test_identical_fails_where_one_side_has_nothing_or_another_shape():
    assert not identical(W, None, **PLACE).passed
    assert not identical(W, W[:1], **PLACE).passed
