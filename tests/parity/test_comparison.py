from dataclasses import replace

import numpy as np
import pytest

from parity import distance
from parity.comparison import doubtful, identical, judge
from parity.place import Place

GIVEN = Place(check="parameters", name="w"), "moved"
W = np.array([[1.0, 0.0], [-2.5, 3.0]], np.float32)


def test_identical_passes_a_copy_whatever_its_memory_layout():
    row = identical(W, np.asfortranarray(W), *GIVEN)
    assert row.passed
    assert not row.note
    assert identical(np.float32(2).reshape(()), np.full((), 2, np.float32), *GIVEN).passed
    assert identical(None, None, *GIVEN).passed
    assert identical(W[:0], W[:0], *GIVEN).passed


@pytest.mark.parametrize(
    ("index", "value", "distance"),
    [((0, 0), np.nextafter(np.float32(1), np.float32(2)), 2.0**-23), ((0, 1), -0.0, 0.0)],
    ids=["one ULP", "the sign of zero"],
)
def test_identical_fails_where_one_bit_differs(index, value, distance):
    changed = W.copy()
    changed[index] = value
    row = identical(W, changed, *GIVEN)
    assert not row.passed
    assert (row.where, row.distance) == (index, distance)
    assert row.note.startswith("moved")
    assert (row.size, row.beyond) == (4, 1)
    assert (row.candidate, row.truth) == (changed[index], W[index])


def test_identical_tells_integers_apart_that_float64_cannot():
    large = np.array([2**53], np.int64)
    row = identical(large, large + 1, *GIVEN)
    assert not row.passed
    assert (row.where, row.candidate, row.truth) == ((0,), 2**53 + 1, 2**53)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32])
def test_identical_fails_where_the_dtype_differs(dtype):
    ones = np.ones(2, np.float32)
    row = identical(ones, ones.astype(dtype), *GIVEN)
    assert not row.passed
    assert f"the reference is float32, the candidate {np.dtype(dtype)}" in row.note


def test_whole_numbers_may_have_another_width():
    """JAX has int32 for PyTorch's int64."""
    ids = np.arange(4)
    assert identical(ids, ids.astype(np.int32), *GIVEN).passed
    row = identical(ids, (ids + (ids == 2)).astype(np.int32), *GIVEN)
    assert (row.passed, row.where, row.beyond) == (False, (2,), 1)
    assert not identical(ids > 1, (ids > 1).astype(np.int32), *GIVEN).passed


def test_identical_fails_where_both_are_no_numbers_and_passes_equal_infinities():
    bad = np.array([np.nan], np.float32)
    assert not identical(bad, bad, *GIVEN).passed
    mask = np.array([0, -np.inf], np.float32)  # of attention, as a buffer
    assert identical(mask, mask, *GIVEN).passed
    for other in ([0, 0], [0, np.inf], [-np.inf, -np.inf]):
        assert not identical(mask, np.array(other, np.float32), *GIVEN).passed


def test_identical_fails_where_one_side_has_nothing_or_another_shape():
    assert not identical(W, None, *GIVEN).passed
    assert not identical(W, W[:1], *GIVEN).passed


HERE = Place(check="forward", dtype="float64", name="y")
Y = np.linspace(1, 2, 12).reshape(3, 4)


def runs(*moves):
    """The reference's runs: the plain one, then Y moved by these."""
    return [Y, *(Y + move for move in moves)]


def test_a_determined_array_is_right_or_wrong():
    assert judge(Y, Y * (1 + 1e-15), runs(1e-15), HERE).verdict == "ok"
    assert judge(Y, Y * (1 + 1e-12), runs(1e-15), HERE).verdict == "FAILED"


def test_where_the_reference_differs_from_itself_a_candidate_like_it_is_neither():
    row = judge(Y, Y + 1e-6, runs(1e-6, -1e-6), HERE)
    assert (row.passed, row.verdict) == (True, "undetermined")
    assert "only rounding determines it" in row.note
    # The candidate may even be equal: what may be undetermined is the reference's alone to say.
    assert judge(Y, Y, runs(1e-6, -1e-6), HERE).verdict == "undetermined"


def test_nothing_hides_in_an_undetermined_array():
    """Neither a distance beyond the bound, nor an element that the reference knows."""
    assert judge(Y, Y + 1e-3, runs(1e-6, -1e-6), HERE).verdict == "FAILED"
    late = np.zeros_like(Y)
    late[2] = 1.0  # as in a chaotic sequence: the last step is lost
    wrong = Y.copy()
    wrong[0, 1] += 1e-9
    row = judge(Y, wrong, runs(late, -late), HERE)
    assert row.verdict == "FAILED"
    assert (row.where, row.beyond, row.size) == ((0, 1), 1, 12)
    assert "of the 8 elements that the reference knows" in row.note
    assert judge(Y, Y + late, runs(late, -late), HERE).verdict == "undetermined"


def test_among_runs_of_noise_the_candidate_may_be_the_largest():
    """In bfloat16, whose k is 1: 8 times the largest is allowed; of a determined array 1."""
    here = Place(check="gradients", name="b", dtype="bfloat16")
    zero, noise = np.full((3, 4), 1e-19), 1e-3
    own = [zero + noise, zero - noise]
    assert judge(zero, zero + 3 * noise, own, here).verdict == "undetermined"
    assert judge(zero, zero + 9 * noise, own, here).verdict == "FAILED"
    assert judge(Y, Y + 0.3, [Y + 0.1, Y - 0.1], here).verdict == "FAILED"


def with_value(array, where, value):
    changed = array.copy()
    changed[where] = value
    return changed


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinities_of_all_runs_must_be_those_of_the_candidate(value):
    truth = with_value(Y, (1, 2), value)
    assert judge(truth, truth, [truth, truth], HERE).verdict == "ok"
    for other in (np.nan, -value, 0.0):
        wrong = with_value(Y, (1, 2), other)
        row = judge(truth, wrong, [truth, truth], HERE)
        assert row.verdict == "FAILED"
        assert row.where == (1, 2)
        assert f"the truth is {value} at [1, 2]" in row.note
        assert judge(truth, wrong, [truth, wrong], HERE).verdict == "undetermined"


def test_an_element_that_is_no_number_is_undetermined():
    truth = with_value(Y, (1, 2), np.nan)
    row = judge(truth, truth, [truth, truth], HERE)
    assert row.verdict == "undetermined"
    assert "non-finite" in row.note
    assert "[1, 2]" in row.note


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_beside_an_element_that_is_not_finite_the_others_are_judged(bad):
    truth = with_value(Y, (1, 2), bad)
    wrong = with_value(truth, (0, 0), Y[0, 0] + 1e-9)
    assert judge(truth, wrong, [truth, truth], HERE).verdict == "FAILED"


def test_a_candidate_that_alone_is_not_finite_fails():
    row = judge(Y, with_value(Y, (1, 2), np.nan), runs(1e-15), HERE)
    assert row.verdict == "FAILED"
    assert "the candidate has 1 non-finite elements, the first at [1, 2]" in row.note


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_candidate_may_have_zero_for_what_is_below_the_smallest_normal_number(dtype):
    truth = Y * np.finfo(dtype).smallest_normal / 8
    place = replace(HERE, dtype=dtype)
    own = [truth.astype(dtype), np.zeros_like(truth, dtype)]
    assert judge(truth, np.zeros_like(truth, dtype), own, place).verdict == "ok"
    wrong = np.full_like(truth, 1e4 * np.finfo(dtype).smallest_normal, dtype)
    assert judge(truth, wrong, own, place).verdict == "FAILED"


@pytest.mark.parametrize("kind", [np.int64, np.int32, bool])
def test_whole_numbers_are_equal_or_wrong_where_the_reference_agrees_with_itself(kind):
    truth = np.array([0, 1, 1]).astype(kind)
    other = np.array([1, 1, 1]).astype(kind)
    assert judge(truth, truth, [truth, truth], HERE).verdict == "ok"
    row = judge(truth, other, [truth, truth], HERE)
    assert row.verdict == "FAILED"
    assert (row.where, row.beyond, row.size) == ((0,), 1, 3)
    assert (row.candidate, row.truth) == (other[0], truth[0])
    assert judge(truth, other, [truth, other], HERE).verdict == "undetermined"


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_arrays_without_axes_or_elements(shape):
    empty = np.ones(shape)
    assert judge(empty, empty, [empty, empty], HERE).verdict == "ok"
    if not shape:
        assert judge(empty, empty * (1 + 1e-9), [empty], HERE).verdict == "FAILED"
        assert judge(empty, empty, [empty, empty + 1], HERE).verdict == "undetermined"


def test_a_failing_row_counts_the_wrong_elements_and_has_both_values_at_the_worst():
    wrong = np.ones((distance.PIECE, 3))  # three pieces
    wrong[0, 1] = wrong[-1, 2] = 1 + 1e-9
    wrong[-1, 0] = 1.5
    ones = np.ones_like(wrong)
    row = judge(ones, wrong, [ones, ones * (1 + 1e-15)], HERE)
    assert (row.size, row.beyond) == (3 * distance.PIECE, 3)
    assert (row.where, row.candidate, row.truth) == ((distance.PIECE - 1, 0), 1.5, 1.0)
    right = judge(ones, ones, [ones, ones * (1 + 1e-15)], HERE)
    assert (right.passed, right.beyond, right.candidate, right.truth) == (True, 0, 1.0, 1.0)


def test_only_what_fails_by_little_is_doubtful():
    near = judge(Y, Y * (1 + 1e-12), runs(1e-15), HERE)
    far = judge(Y, Y * 1.5, runs(1e-15), HERE)
    right = judge(Y, Y, runs(1e-15), HERE)
    assert doubtful([near, right], 1e4)
    assert not doubtful([near, far], 1e4)
    assert doubtful([near, far], float("inf"))
    assert not doubtful([right], 1e4)
    assert not doubtful([near], 0)


@pytest.mark.parametrize(
    ("truth", "given", "words"),
    [
        (np.ones(2), np.ones(2, bool), "the candidate has booleans, the truth real numbers"),
        (np.ones(2, bool), np.ones(2, int), "the candidate has whole numbers, the truth booleans"),
        (np.ones(2), np.ones(2, complex), "the candidate has complex numbers, the truth real"),
        (np.ones(2, complex), np.ones(2), "the candidate has real numbers, the truth complex"),
        (np.ones(2, np.int64), np.ones(2, np.int32), ""),
        (np.ones(2, complex), np.ones(2, np.complex64), ""),
    ],
)
def test_equal_numbers_of_another_kind_fail(truth, given, words):
    row = judge(truth, given, [truth], Place(dtype="float64"))
    assert row.passed == (not words)
    assert row.note.startswith(words)
