"""`parity.check`: a PyTorch model, a Flax model, an input → a report."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

import flax_bilstm as fb
from parity import bilstm
from parity.harness import Progress, compare
from parity.optimizers import OPTIMIZERS, Optimizer
from parity.port import TARGET, Port, floating
from parity.report import Report
from parity.tolerances import TRUTH


def check(
    torch_model: torch.nn.Module,
    flax_model: fb.BiLSTMWithAttention | fb.LSTM,
    x: Float[np.ndarray, "..."],
    *,
    dtypes: Sequence[str] = ("float64", "float32"),
    training_steps: int = 10,
    optimizers: Sequence[Optimizer] = OPTIMIZERS,
    seed: int = 0,
) -> Report:
    """Compare two models as they are handed over: parameters, forward, gradients, training.

    The models are neither converted nor changed. Gradients and training descend the mean squared
    error to a random target; training runs every optimizer from the models' parameters over the
    same random batches, shaped as x, on both sides.

    Args:
        torch_model: the reference, a network with `lstm`, `attention`, `fc`, or a `torch.nn.LSTM`.
        flax_model: the candidate, a `flax_bilstm.BiLSTMWithAttention` or `flax_bilstm.LSTM`.
        x: what to run them on, as the models take it: for the network (batch, time, input_dim).
        dtypes: any of "float64", which judges meaning, and "float32", which judges arithmetic.
        training_steps: steps for each optimizer and dtype; 0 leaves training out.
        optimizers: rows of `parity.optimizers`.
        seed: of targets and batches.

    Returns:
        The report, in order of computation; `report.assert_passed()` raises unless it passed.

    Raises:
        TypeError: the models are of other kinds.
        ValueError: x is not floating, or a model does not take it.
    """
    return check_port(
        bilstm.port(torch_model, flax_model),
        x,
        dtypes=dtypes,
        training_steps=training_steps,
        optimizers=optimizers,
        seed=seed,
    )


def check_port(
    port: Port,
    x: Float[np.ndarray, "..."],
    *,
    training_steps: int,
    optimizers: Sequence[Optimizer] = OPTIMIZERS,
    seed: int = 0,
    dtypes: Sequence[str] = ("float64", "float32"),
    case: str = "",
    progress: Progress = lambda what: None,
) -> Report:
    """`check` for a port at hand, whose compiled functions are then used again."""
    x = np.asarray(x)
    if not floating(x):
        raise ValueError(f"x: expected floating numbers, got {x.dtype}; cast it first")
    rng = np.random.default_rng(seed)
    *_, output = port.reference.forward(port.reference.parameters, {"x": x}, TRUTH).values()

    def batch(x: np.ndarray) -> dict[str, np.ndarray]:
        return {"x": x, TARGET: rng.standard_normal(output.shape)}

    def like_x() -> np.ndarray:
        return x.mean() + x.std() * rng.standard_normal(x.shape)

    given = batch(x)
    batches = [batch(like_x()) for _ in range(training_steps)]
    facts: dict[str, Any] = {"seed": seed, "parameters": _count(port)}
    return compare(
        port, given, dtypes=dtypes, optimizers=optimizers, batches=batches, case=case,
        facts=facts, progress=progress,
    )  # fmt: skip


def _count(port: Port) -> int:
    return sum(array.size for array in port.reference.parameters.values())
