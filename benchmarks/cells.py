"""What is timed: sizes, modes and contestants, as data."""

from typing import NamedTuple

INPUT_DIM, OUTPUT_DIM = 128, 1
MODES = ("inference", "training")
HIDDEN_SIZES = (64, 256)
SHAPES = ((1, 32), (1, 256), (8, 2048), (32, 32), (32, 128), (32, 512), (128, 128), (256, 64))
QUICK_SHAPES = ((1, 32), (32, 32), (32, 128))


class Cell(NamedTuple):
    """One row of the table."""

    batch: int
    time: int
    hidden_dim: int
    mode: str

    def __str__(self) -> str:
        return f"{self.mode} {self.batch}×{self.time}, hidden {self.hidden_dim}"

    @property
    def matmul_flops(self) -> int:
        """Operations in the matrix products that the mode cannot do without.

        Per direction and step the gates take [x, h] W. Training adds dh = dz W_hhᵀ and dW; the
        gradient of x is not asked for.
        """
        forward = 2 * (INPUT_DIM + self.hidden_dim) * 4 * self.hidden_dim
        backward = forward + 2 * self.hidden_dim * 4 * self.hidden_dim
        steps = 2 * self.batch * self.time
        return steps * (forward + (backward if self.mode == "training" else 0))


class Contestant(NamedTuple):
    """Who runs: a framework's builder in `contestants`, its options, and the devices it sees.

    Those split the batch, or, with directions=2, the two directions.
    """

    framework: str
    implementation: str | None = None
    devices: int = 1
    directions: int = 1


PEERS = {"PyTorch": Contestant("torch"), "flax.nnx": Contestant("nnx")}
OURS = {
    "scan": Contestant("flax_bilstm", "scan"),
    "checkpointed": Contestant("flax_bilstm", "checkpointed"),
    "fused": Contestant("flax_bilstm", "fused"),
    "fused, batch on 2": Contestant("flax_bilstm", "fused", devices=2),
    "fused, directions on 2": Contestant("flax_bilstm", "fused", devices=2, directions=2),
    "fused, both on 4": Contestant("flax_bilstm", "fused", devices=4, directions=2),
}
CONTESTANTS = PEERS | OURS
DEFAULT = "fused"
"""What a user gets who chooses neither an implementation nor devices."""


def grid(shapes: tuple[tuple[int, int], ...], hidden_sizes: tuple[int, ...]) -> list[Cell]:
    """Every cell of the table."""
    return [
        Cell(batch, time, hidden_dim, mode)
        for mode in MODES
        for hidden_dim in hidden_sizes
        for batch, time in shapes
    ]


def enters(contestant: Contestant, cell: Cell) -> bool:
    """Whether the contestant can run the cell: a batch is split evenly here."""
    return cell.batch % (contestant.devices // contestant.directions) == 0
