"""`parity.check`: a PyTorch model, a Flax model, an input → a report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from flax import nnx

import flax_bilstm as fb
from parity import bilstm, modules
from parity.harness import Progress, compare
from parity.optimizers import OPTIMIZERS, Optimizer
from parity.port import TARGET, Arrays, Port, floating
from parity.report import Report
from parity.tolerances import DTYPES, TRUTH

Inputs = np.ndarray | tuple[np.ndarray, ...]
"""What the models are called with: an array, or several by position."""


def check(
    torch_model: torch.nn.Module,
    flax_model: nnx.Module,
    x: Inputs,
    *,
    parameters: Sequence[tuple[str, str, modules.Transform]] = (),
    stages: Mapping[str, str] | None = None,
    dtypes: Sequence[str] = DTYPES,
    training_steps: int = 10,
    optimizers: Sequence[Optimizer] = OPTIMIZERS,
    seed: int = 0,
) -> Report:
    """Compare two models as they are handed over: parameters, forward, gradients, training.

    The models are neither converted nor changed. Gradients and training descend the mean squared
    error to a random target; training runs every optimizer from the models' parameters over the
    same random batches, shaped as x, on both sides.

    Args:
        torch_model: the reference. Beside flax_bilstm's models a network with `lstm`, `attention`
            and `fc`, or a `torch.nn.LSTM`.
        flax_model: the candidate: a `flax_bilstm.BiLSTMWithAttention`, a `flax_bilstm.LSTM`, or any
            other module, whose parameters and stages `parity.modules` pairs by path.
        x: what to run them on, as the models take it: for the network (batch, time, input_dim). A
            tuple where a model takes several arrays.
        parameters: for other modules, rows (torch name, Flax path, transform) of what is named or
            laid out otherwise than `parity.modules.TWINS` expects.
        stages: for other modules, torch path → Flax path of the submodules to look into; None: all
            that both have.
        dtypes: any of "float64", which judges meaning, and "float32" and "bfloat16", which judge
            arithmetic. The models are cast to each, parameters included, and everything is first
            rounded to the narrowest of them; there is no training in bfloat16.
        training_steps: steps for each optimizer and dtype; 0 leaves training out.
        optimizers: rows of `parity.optimizers`.
        seed: of targets and batches.

    Returns:
        The report, in order of computation; `report.assert_passed()` raises unless it passed.

    Raises:
        TypeError: the models are of other kinds.
        ValueError: x is not floating, a model does not take it, or a parameter has no twin.
    """
    if isinstance(flax_model, fb.BiLSTMWithAttention | fb.LSTM):
        if not isinstance(x, tuple) and not floating(np.asarray(x)):
            dtype = np.asarray(x).dtype
            raise ValueError(f"x: expected floating numbers, got {dtype}; cast it first")
        port = bilstm.port(torch_model, flax_model)
    else:
        port = modules.port(torch_model, flax_model, parameters=parameters, stages=stages)
    return check_port(
        port,
        x,
        dtypes=dtypes,
        training_steps=training_steps,
        optimizers=optimizers,
        seed=seed,
    )


def check_port(
    port: Port,
    x: Inputs | Arrays,
    *,
    training_steps: int,
    optimizers: Sequence[Optimizer] = OPTIMIZERS,
    seed: int = 0,
    dtypes: Sequence[str] = DTYPES,
    case: str = "",
    progress: Progress = lambda what: None,
) -> Report:
    """`check` for a port at hand, whose compiled functions are then used again.

    x may also be several arrays by name.
    """
    given = _named(x)
    rng = np.random.default_rng(seed)
    *_, output = port.reference.forward(port.reference.parameters, given, TRUTH).values()

    def batch(inputs: Arrays) -> dict[str, np.ndarray]:
        return {**inputs, TARGET: rng.standard_normal(output.shape)}

    def like(array: np.ndarray) -> np.ndarray:
        if not floating(array):  # classes, lengths: values that occur
            return rng.permuted(array.ravel()).reshape(array.shape)
        return array.mean() + array.std() * rng.standard_normal(array.shape)

    first = batch(given)
    batches = [
        batch({name: like(array) for name, array in given.items()}) for _ in range(training_steps)
    ]
    facts: dict[str, Any] = {"seed": seed, "parameters": _count(port)}
    return compare(
        port, first, dtypes=dtypes, optimizers=optimizers, batches=batches, case=case,
        facts=facts, progress=progress,
    )  # fmt: skip


def _named(x: Inputs | Arrays) -> Arrays:
    """One array as "x", several as "x0", "x1" and so on, those with names as they are."""
    if isinstance(x, Mapping):
        return x
    if isinstance(x, tuple):
        return {f"x{i}": np.asarray(array) for i, array in enumerate(x)}
    return {"x": np.asarray(x)}


def _count(port: Port) -> int:
    return sum(array.size for array in port.reference.parameters.values())
