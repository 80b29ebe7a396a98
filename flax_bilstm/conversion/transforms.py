"""Transforms between torch tensors and Flax variables: pairs of pure functions.

They only move elements, so they are exact, and optimizers' moments are converted by them too.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Arrays = Sequence[np.ndarray]

PIECE = 2**20
"""Bytes that are compared at a time."""


class Transform(NamedTuple):
    """`to_torch` turns the Flax arrays of one row into its torch tensors, `from_torch` back.

    If `exact`, each undoes the other bit for bit.
    """

    to_torch: Callable[[Arrays], Arrays]
    from_torch: Callable[[Arrays], Arrays]
    exact: bool = True


def each(
    to_torch: Callable[[np.ndarray], np.ndarray], from_torch: Callable[[np.ndarray], np.ndarray]
) -> Transform:
    """The transform that converts every array separately."""
    return Transform(
        lambda leaves: [to_torch(leaf) for leaf in leaves],
        lambda tensors: [from_torch(tensor) for tensor in tensors],
    )


SAME = each(lambda leaf: leaf, lambda tensor: tensor)
TRANSPOSED = each(lambda leaf: leaf.T, lambda tensor: tensor.T)

SCALAR = each(lambda leaf: leaf.reshape(1), lambda tensor: tensor.reshape(()))
"""torch's (1,) ↔ Flax's ()."""

COUNT = each(lambda leaf: leaf.astype(np.int64), lambda tensor: tensor.astype(np.int32))
"""torch's 64-bit count ↔ 32 bits, JAX's default."""

CONVOLUTION = each(
    # (*window, in, out) ↔ (out, in, *window)
    lambda leaf: np.moveaxis(leaf, (-1, -2), (0, 1)),
    lambda tensor: np.moveaxis(tensor, (0, 1), (-1, -2)),
)

TRANSPOSED_CONVOLUTION = each(
    # (*window, in, out) ↔ (in, out, *window), and Flax's window is flipped
    lambda leaf: np.moveaxis(_turned(leaf), (-2, -1), (0, 1)),
    lambda tensor: _turned(np.moveaxis(tensor, (0, 1), (-2, -1))),
)


def _turned(kernel: np.ndarray) -> np.ndarray:
    return np.flip(kernel, tuple(range(kernel.ndim - 2)))


def matrix(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Transform:
    """A kernel (*inputs, *outputs) ↔ a weight (out, in), with merged input and output axes."""
    rows, columns = int(np.prod(outputs)), int(np.prod(inputs))
    return each(
        lambda leaf: leaf.reshape(columns, rows).T,
        lambda tensor: tensor.T.reshape(*inputs, *outputs),
    )


def reshaped(flax: tuple[int, ...], torch: tuple[int, ...]) -> Transform:
    """One shape ↔ another, with the elements in the same order."""
    return each(lambda leaf: leaf.reshape(torch), lambda tensor: tensor.reshape(flax))


def concatenated(parts: Sequence[Transform]) -> Transform:
    """Several variables ↔ one tensor: their tensors, concatenated along axis 0."""

    def to_torch(leaves: Arrays) -> Arrays:
        tensors = [part.to_torch([leaf])[0] for part, leaf in zip(parts, leaves, strict=True)]
        return [np.concatenate(tensors)]

    def from_torch(tensors: Arrays) -> Arrays:
        pieces = np.split(tensors[0], len(parts))
        return [part.from_torch([piece])[0] for part, piece in zip(parts, pieces, strict=True)]

    return Transform(to_torch, from_torch)


def stacked(one: Transform, count: int) -> Transform:
    """Variables with a leading axis ↔ the tensors of `count` modules, in the order of the axis."""

    def to_torch(leaves: Arrays) -> Arrays:
        return [t for i in range(count) for t in one.to_torch([leaf[i] for leaf in leaves])]

    def from_torch(tensors: Arrays) -> Arrays:
        size = len(tensors) // count
        groups = [one.from_torch(tensors[i * size : (i + 1) * size]) for i in range(count)]
        return [np.stack(group) for group in zip(*groups, strict=True)]

    return Transform(to_torch, from_torch, one.exact)


def tied(transforms: Sequence[tuple[Transform, int]]) -> Transform:
    """The same variables ↔ several tensors or groups of them, equal bit for bit.

    `transforms` has, for each group, its transform and the number of its tensors.

    `from_torch` raises ValueError if they are not equal.
    """

    def to_torch(leaves: Arrays) -> Arrays:
        return [tensor for one, _ in transforms for tensor in one.to_torch(leaves)]

    def from_torch(tensors: Arrays) -> Arrays:
        results, start = [], 0
        for one, size in transforms:
            results.append(one.from_torch(tensors[start : start + size]))
            start += size
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                if not identical(a, b):
                    raise ValueError("expected tied tensors, equal to the bit, got different ones")
        return results[0]

    return Transform(to_torch, from_torch)


def identical(a: np.ndarray, b: np.ndarray) -> bool:
    """The same shape, dtype and bits; compared in pieces of some rows, without a copy of all."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.size == 0 or a.ndim == 0:
        return a.tobytes() == b.tobytes()
    rows = max(1, PIECE * len(a) // a.nbytes)
    return all(
        a[at : at + rows].tobytes() == b[at : at + rows].tobytes() for at in range(0, len(a), rows)
    )
