"""Other batches are of the kind of the one that was given."""

import numpy as np
import pytest

pytest.importorskip("torch")

from parity.sides import data


def another(**inputs):
    return data.another_batch(inputs, np.random.default_rng(1))


@pytest.mark.parametrize("sign", [1, -1])
def test_sorted_lengths_stay_sorted_and_with_their_sequences(sign):
    lengths = np.array([1, 2, 2, 2, 2, 3, 5])[::sign]
    x = np.stack([np.full(4, length + 0.5, np.float32) for length in lengths])
    moved = another(x=x, lengths=lengths)
    np.testing.assert_array_equal(moved["lengths"], lengths)
    np.testing.assert_allclose(moved["x"], x, rtol=0.02)
    assert not np.array_equal(moved["x"], x)


def test_what_is_not_sorted_is_put_in_another_order_together():
    classes = np.array([3, 1, 2, 0, 4])
    moved = another(x=classes[:, None].astype(float), classes=classes)
    assert not np.array_equal(moved["classes"], classes)
    assert sorted(moved["classes"]) == sorted(classes)
    np.testing.assert_allclose(moved["x"][:, 0], moved["classes"], rtol=0.02)


def test_truth_values_are_no_lengths():
    mask = np.array([False, True, True])
    assert sorted(another(x=np.ones((3, 1)), mask=mask)["mask"]) == sorted(mask)


def test_positive_numbers_zeros_and_one_hot_rows_stay_so():
    assert np.all(another(x=np.array([[1e-9], [2.0]]))["x"] > 0)
    hot = another(x=np.eye(4))["x"]
    np.testing.assert_array_equal(np.sort(hot, axis=0), np.sort(np.eye(4), axis=0))


def test_what_may_be_the_lengths_of_sequences():
    x = np.zeros((3, 5, 2))
    inputs = {
        "x": x, "x1": np.array([5, 1, 2]), "classes": np.array([0, 1, 2]),
        "long": np.array([6, 1, 2]), "two": np.array([1, 2]), "real": np.array([1.0, 2.0, 3.0]),
        "none": np.zeros(0, int),
    }  # fmt: skip
    assert data.like_lengths(inputs) == ["x1"]
