"""The examples' data: real lengths, disjoint parts, an order that can be had again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import digits
import recipe
from config import Config


@pytest.fixture(scope="module")
def data():
    return digits.load()


def test_every_digit_is_as_long_as_it_is_wide(data):
    for part in data:
        steps = np.arange(part.x.shape[1])
        inked = part.x.any(axis=-1)
        assert not inked[steps >= part.lengths[:, None]].any()  # padding is empty
        assert inked[:, 0].all()
        assert inked[np.arange(len(part.lengths)), part.lengths - 1].all()
    assert {int(length) for part in data for length in part.lengths} == {2, 3, 4, 5, 6, 7, 8}


def test_the_parts_are_all_of_the_digits_once(data):
    sizes = [len(part.label) for part in data]
    assert sizes == [1221, 216, 360]
    for part in data:
        assert np.bincount(part.label, minlength=10).min() > 0.09 * len(part.label)


def test_an_image_is_read_from_left_to_right():
    image = np.zeros((1, 8, 8), np.float32)
    image[0, 5, 2], image[0, 1, 4] = 1, 2  # two pixels: (row, column)
    sequences = digits._read_columns(image, np.array([7]))
    assert sequences.lengths.tolist() == [3]
    assert sequences.x[0, 0].tolist() == [0, 0, 0, 0, 0, 1, 0, 0]
    assert sequences.x[0, 2].tolist() == [0, 2, 0, 0, 0, 0, 0, 0]
    assert sequences.x.sum() == 3


def test_the_order_depends_on_seed_and_epoch_alone(data):
    def labels(seed, epoch):
        return np.concatenate([b.label for b in digits.batches(data.training, 64, seed, epoch)])

    assert len(labels(0, 1)) == 64 * (1221 // 64)
    np.testing.assert_array_equal(labels(0, 1), labels(0, 1))
    assert (labels(0, 1) != labels(0, 2)).any()
    assert (labels(0, 1) != labels(1, 1)).any()


def test_an_epoch_shows_no_digit_twice(data):
    numbered = data.training._replace(label=np.arange(1221))
    seen = np.concatenate([b.label for b in digits.batches(numbered, 64, 0, 0)])
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_run_of_few_epochs_still_learns(epochs):
    weights, moved = {"w": jnp.ones(2)}, 0.0
    with jax.numpy_dtype_promotion("standard"):  # optax's count of steps is an integer
        rule = recipe.adamw(Config(epochs=epochs), steps_per_epoch=4)
        state = rule.init(weights)
        for _ in range(4 * epochs):
            updates, state = rule.update(weights, state, weights)
            moved += float(jnp.abs(updates["w"]).sum())
    assert moved > 0
