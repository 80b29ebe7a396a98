"""The examples' data: scikit-learn's handwritten digits, each read from left to right.

1,797 images of 8 × 8 pixels in 10 classes, bundled with scikit-learn:
https://scikit-learn.org/stable/datasets/toy_dataset.html#digits-dataset. Each column of pixels is
one step. Columns without ink on either side are removed, so that a sequence is as long as its digit
is wide, 2 to 8 steps: a 1 is shorter than a 0, and `lengths` says so.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Float32, Int
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

FEATURES = 8
"""Pixels in a column."""
CLASSES = 10

Array = np.ndarray | jax.Array
"""On the host, or on devices."""


class Sequences(NamedTuple):
    """A padded batch, and the classes to predict from it."""

    x: Float[Array, "batch time features"]
    lengths: Int[Array, " batch"]
    label: Int[Array, " batch"]

    def take(self, index: slice | np.ndarray) -> "Sequences":
        """Some of the batch's sequences."""
        return Sequences(*(array[index] for array in self))


class Data(NamedTuple):
    """68 %, 12 % and 20 % of the digits, stratified by class; the same split for every seed."""

    training: Sequences
    validation: Sequences
    test: Sequences


def load() -> Data:
    """All digits as sequences, ink from 0 to 1, in three parts."""
    images, labels = load_digits(return_X_y=True)
    sequences = _read_columns(images.reshape(-1, 8, 8).astype(np.float32) / 16, labels)
    rest, test = _split(np.arange(len(labels)), labels, 0.2)
    training, validation = _split(rest, labels, 0.15)
    return Data(*(sequences.take(index) for index in (training, validation, test)))


def batches(data: Sequences, batch_size: int, seed: int, epoch: int) -> Iterator[Sequences]:
    """One epoch, in an order that depends only on the seed and the epoch, without an uneven rest.

    So a run that restarts at any epoch gets the same batches as without the restart.
    """
    order = np.random.default_rng((seed, epoch)).permutation(len(data.label))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        yield data.take(order[start : start + batch_size])


def _read_columns(images: Float32[np.ndarray, "batch 8 8"], labels: np.ndarray) -> Sequences:
    ink = np.any(images > 0, axis=1)  # (batch, column)
    first, last = ink.argmax(axis=1), 8 - ink[:, ::-1].argmax(axis=1)
    x = np.zeros_like(images)
    for sequence, image, start, end in zip(x, images, first, last, strict=True):
        sequence[: end - start] = image[:, start:end].T
    return Sequences(x, (last - first).astype(np.int32), labels.astype(np.int32))


def _split(index: np.ndarray, labels: np.ndarray, fraction: float) -> list[np.ndarray]:
    return train_test_split(index, test_size=fraction, random_state=0, stratify=labels[index])
