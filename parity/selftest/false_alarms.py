"""No false alarms: unfaulted networks of many sizes, scales and seeds, all of which must pass.

Programs are compiled once per shape and used for all its seeds; half of the shapes are padded
batches. Weights are from a tenth to three times as large as PyTorch draws them, inputs from a
hundredth to ten times standard normal ones: in the largest, gates are saturated at every step.
"""

from dataclasses import dataclass

import numpy as np
import torch

import flax_bilstm as fb
import torch_ref
from parity.compare import compare_sides
from parity.place import Case
from parity.render.text import verdict
from parity.sides import pair
from parity.sides.optimizers import ADAMW
from parity.sides.side import TARGET


@dataclass(frozen=True)
class Shape:
    """Sizes of a network and of its inputs."""

    input_dim: int
    hidden_dim: int
    output_dim: int
    batch: int
    time: int
    padded: bool


SHAPES = tuple(
    Shape(*sizes, padded=i % 2 == 1)
    for i, sizes in enumerate(
        (
            (3, 5, 2, 2, 7), (4, 4, 8, 3, 20), (1, 1, 1, 1, 1), (8, 16, 3, 4, 12),
            (5, 3, 1, 1, 33), (2, 8, 4, 5, 9), (16, 8, 2, 3, 2), (7, 6, 5, 2, 16),
            (32, 4, 1, 2, 5), (3, 24, 2, 6, 8), (1, 9, 3, 33, 4), (6, 2, 2, 8, 25),
            (12, 12, 12, 1, 3), (10, 7, 1, 4, 40), (2, 32, 6, 2, 6), (64, 3, 2, 2, 4),
            (5, 5, 1, 40, 3), (9, 10, 4, 3, 14), (128, 64, 1, 4, 12), (20, 15, 7, 2, 10),
        )
    )
)  # fmt: skip
"""Batches on both sides of 32, where the default implementation changes its products."""

STEPS = 3
RUNS_PER_SHAPE = 10
"""At least this many runs for each shape, if necessary of fewer shapes: compiling takes longer."""


def tasks(runs: int) -> list[tuple[int, range]]:
    """Pairs of the number of a shape and its seeds, with this many runs in all."""
    shapes = min(len(SHAPES), max(1, runs // RUNS_PER_SHAPE))
    shares = [runs // shapes + (i < runs % shapes) for i in range(shapes)] if runs else []
    return [(i, range(share)) for i, share in enumerate(shares)]


def failures_of(task: tuple[int, range]) -> list[str]:
    """The `failures` of one task."""
    number, seeds = task
    return failures(SHAPES[number], seeds)


def failures(shape: Shape, seeds: range) -> list[str]:
    """Check the shape with each of the seeds; return the verdicts of the failed ones.

    Training, with AdamW, is checked at every tenth seed.
    """
    torch.set_num_threads(1)
    model = torch_ref.BiLSTMWithAttention(shape.input_dim, shape.hidden_dim, shape.output_dim)
    sides = None
    found = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        gain, loudness = 10 ** rng.uniform(-1, 0.5), 10 ** rng.uniform(-2, 1)
        weights = {
            name: (gain * rng.uniform(-1, 1, t.shape) / shape.hidden_dim**0.5).astype(np.float32)
            for name, t in model.state_dict().items()
        }
        batches = [_batch(rng, shape, loudness) for _ in range(STEPS if seed % 10 == 0 else 1)]
        if sides is None:
            candidate = fb.from_state_dict(model.state_dict())
            inputs = {n: a for n, a in batches[0].items() if n != TARGET}
            sides = pair.of_modules(model, candidate, inputs)
        report = compare_sides(
            sides.holding(weights, weights),
            batches[0],
            optimizers=[ADAMW],
            batches=batches if len(batches) > 1 else [],
            case=Case(str(shape), f"seed {seed}"),
        )
        if not report.passed:
            found.append(verdict(report))
    return found


def _batch(rng: np.random.Generator, shape: Shape, loudness: float) -> dict[str, np.ndarray]:
    x = loudness * rng.standard_normal((shape.batch, shape.time, shape.input_dim))
    target = rng.standard_normal((shape.batch, shape.output_dim))
    inputs: dict[str, np.ndarray] = {"x": x.astype(np.float32), TARGET: target.astype(np.float32)}
    if shape.padded:
        inputs["lengths"] = rng.integers(1, shape.time + 1, shape.batch)
    return inputs
