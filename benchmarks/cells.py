"""What is timed: sizes, parts and modes, as data."""

from itertools import product
from typing import Any, NamedTuple

INPUT_DIM, OUTPUT_DIM = 128, 1
AGREEMENT = 1e-4
"""Largest allowed difference from PyTorch in float64, relative to an array's largest value."""


class Cell(NamedTuple):
    """One row of the tables.

    The part "layer" is the LSTM alone; "network" is the reference network, with attention and head.
    The mode "inference" is the forward pass; "gradients" is the forward pass and the gradients of
    input and parameters for a given gradient of the outputs; "training" is a whole step: forward,
    mean squared error, backward, Adam. Ragged: the sequences in the batch have different lengths.
    """

    part: str
    mode: str
    hidden_dim: int
    batch: int
    time: int
    directions: int = 2
    layers: int = 1
    ragged: bool = False

    def __str__(self) -> str:
        kind = f", {self.variant}" if self.variant else ""
        return f"{self.part} {self.mode} {self.batch}×{self.time}, hidden {self.hidden_dim}{kind}"

    @property
    def variant(self) -> str:
        """How the cell differs from one bidirectional layer over whole sequences."""
        words = {
            "one direction": self.directions == 1,
            f"{self.layers} layers": self.layers > 1,
            "ragged": self.ragged,
        }
        return ", ".join(word for word, holds in words.items() if holds)

    @property
    def lengths(self) -> list[int]:
        """The sequences' lengths; if ragged, evenly spread from a quarter of the steps to all."""
        if not self.ragged:
            return [self.time] * self.batch
        quarter, span = self.time // 4, self.time - self.time // 4
        return [quarter + round(span * (i + 1) / self.batch) for i in range(self.batch)]

    @property
    def matmul_flops(self) -> int:
        """Operations in the matrix products that the cell cannot avoid.

        In each layer, direction and step the gates need [x, h] W. The gradients add dh = dz W_hhᵀ,
        dW = [x, h]ᵀ dz and, unless x is the data of a training step, dx = dz W_ihᵀ.
        """
        gates = 4 * self.hidden_dim
        total = 0
        for layer in range(self.layers):
            features = INPUT_DIM if layer == 0 else self.directions * self.hidden_dim
            total += 2 * (features + self.hidden_dim) * gates
            if self.mode != "inference":
                needs_dx = layer > 0 or self.mode == "gradients"
                total += 2 * (features + 2 * self.hidden_dim + needs_dx * features) * gates
        return self.directions * sum(self.lengths) * total


SHAPES = ((1, 32), (1, 256), (8, 2048), (32, 32), (32, 128), (128, 128), (256, 64))
LARGE_SHAPES = ((1, 32), (1, 256), (32, 32), (32, 128), (128, 128))
"""At hidden size 512, where a step of 8 × 2048 takes seconds."""
QUICK_SHAPES = ((1, 32), (32, 32))
MODES = {"layer": ("inference", "gradients"), "network": ("inference", "training")}
VARIANTS: tuple[dict[str, Any], ...] = ({"directions": 1}, {"layers": 2}, {"ragged": True})


def layers() -> list[Cell]:
    """The LSTM alone: every size, then the variants of one bidirectional layer."""
    sizes = [*product((64, 128, 256), SHAPES), *((512, shape) for shape in LARGE_SHAPES)]
    cells = [Cell("layer", mode, h, *shape) for mode in MODES["layer"] for h, shape in sizes]
    for mode, variant, hidden_dim in product(MODES["layer"], VARIANTS, (64, 256)):
        cells.append(Cell("layer", mode, hidden_dim, 32, 128, **variant))
    return cells


def networks() -> list[Cell]:
    """The reference network."""
    sizes = product(MODES["network"], (64, 256), SHAPES)
    return [Cell("network", mode, hidden_dim, *shape) for mode, hidden_dim, shape in sizes]


def quick() -> list[Cell]:
    """A few cells of each part."""
    cells = [
        Cell(part, mode, 64, *shape)
        for part, modes in MODES.items()
        for mode, shape in product(modes, QUICK_SHAPES)
    ]
    return [*cells, *(Cell("layer", "inference", 64, 8, 32, **variant) for variant in VARIANTS)]


ALTERNATIVE_CELLS = tuple(
    Cell("layer", mode, hidden_dim, *shape)
    for mode in MODES["layer"]
    for hidden_dim, shape in product((64, 256), ((32, 128), (128, 128)))
)
"""Where this library's other implementations and meshes are timed too."""
