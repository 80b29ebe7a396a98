"""The weights and inputs of a cell: the same numbers for every contestant, from fixed seeds."""

from typing import NamedTuple

import numpy as np

from benchmarks.cells import INPUT_DIM, OUTPUT_DIM, Cell

LEARNING_RATE = 1e-3  # Adam's, in training steps
Arrays = dict[str, np.ndarray]


class Inputs(NamedTuple):
    """x (batch, time, input); lengths (batch,) or None if all sequences are whole.

    Also the gradient of the outputs (batch, time, directions·hidden), and the targets of a training
    step (batch, output). x and the gradient are 0 in the padding.
    """

    x: np.ndarray
    lengths: np.ndarray | None
    outputs_gradient: np.ndarray
    target: np.ndarray


def weights(cell: Cell) -> Arrays:
    """A state dict of `torch.nn.LSTM`, or of the reference network."""
    hidden_dim = cell.hidden_dim
    features = cell.directions * hidden_dim
    shapes: dict[str, tuple[int, ...]] = {}
    prefix = "lstm." if cell.part == "network" else ""
    for layer in range(cell.layers):
        for suffix in ("", "_reverse")[: cell.directions]:
            place = f"l{layer}{suffix}"
            columns = INPUT_DIM if layer == 0 else features
            shapes[f"{prefix}weight_ih_{place}"] = (4 * hidden_dim, columns)
            shapes[f"{prefix}weight_hh_{place}"] = (4 * hidden_dim, hidden_dim)
            shapes[f"{prefix}bias_ih_{place}"] = (4 * hidden_dim,)
            shapes[f"{prefix}bias_hh_{place}"] = (4 * hidden_dim,)
    if cell.part == "network":
        shapes["attention.attn.weight"] = (features, features)
        shapes["attention.attn.bias"] = (features,)
        shapes["fc.weight"], shapes["fc.bias"] = (OUTPUT_DIM, features), (OUTPUT_DIM,)
    rng, bound = np.random.default_rng(0), hidden_dim**-0.5
    return {n: rng.uniform(-bound, bound, shape).astype("f4") for n, shape in shapes.items()}


def inputs(cell: Cell) -> Inputs:
    """The inputs of a cell."""
    rng = np.random.default_rng(1)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype="f4")

    x = normal(cell.batch, cell.time, INPUT_DIM)
    gradient = normal(cell.batch, cell.time, cell.directions * cell.hidden_dim)
    lengths = None
    if cell.ragged:
        lengths = rng.permutation(np.asarray(cell.lengths, dtype="i4"))
        padding = np.arange(cell.time) >= lengths[:, None]
        x[padding], gradient[padding] = 0, 0
    return Inputs(x, lengths, gradient, normal(cell.batch, OUTPUT_DIM))


def difference(actual: Arrays, expected: Arrays) -> float:
    """The largest difference of any array, relative to the expected one's largest value.

    Arrays that a contestant does not have (a second bias, for example) are not compared.
    """
    if not actual or not actual.keys() <= expected.keys():
        raise ValueError(f"expected arrays out of {sorted(expected)}, got {sorted(actual)}")
    errors = []
    for name, array in actual.items():
        truth = expected[name]
        if array.shape != truth.shape:
            raise ValueError(f"{name}: expected shape {truth.shape}, got {array.shape}")
        errors.append(abs(array - truth).max() / abs(truth).max())
    return float(np.max(errors))  # NaN if any is
