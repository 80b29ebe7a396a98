"""What `parity` proves: the published size at several shapes and seeds, digits, a checkpoint."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

import flax_bilstm as fb
import torch_ref
from parity import bilstm, digits, figures
from parity.checking import check_port
from parity.harness import Progress
from parity.optimizers import OPTIMIZERS
from parity.port import Arrays, Port
from parity.report import Report

INPUT_DIM, HIDDEN_DIM, OUTPUT_DIM = 128, 64, 1
SHAPES = ((4, 12), (1, 12), (4, 1), (1, 1), (8, 50))
"""(batch, time); training is checked at the first."""


def whole(seeds: int, steps: int, progress: Progress) -> tuple[Report, digits.Curves]:
    """The published size with random weights, then the digits."""
    reports = list(_published(seeds, steps, progress))
    real, curves = digits.prove(progress=progress)
    return Report.joined([*reports, real]), curves


def of_checkpoint(path: Path, seeds: int, steps: int, progress: Progress) -> Report:
    """The checkpoint as both frameworks load it, at several shapes, one random input per seed.

    Raises:
        ValueError: the file does not hold a state dict of the network or of an LSTM.
        OSError: it cannot be read.
    """
    with jax.enable_x64(True):  # keeps a float64 checkpoint float64
        flax_model = fb.load(path)
    torch_model = _load_reference(path, flax_model)
    network = isinstance(flax_model, fb.BiLSTMWithAttention)
    features = (flax_model.lstm if network else flax_model).input_size
    port = bilstm.port(torch_model, flax_model)
    reports = [
        check_port(
            port, _random_input(seed, *shape, features), case=_case(path.name, shape, seed),
            training_steps=_steps(shape, seed, steps), optimizers=OPTIMIZERS, seed=seed,
            progress=progress,
        )
        for shape in SHAPES
        for seed in range(seeds)
    ]  # fmt: skip
    progress(f"{path.name}: figures")
    return Report.joined([*reports, _drawn(port, torch_model, flax_model, path.name, features)])


def _published(seeds: int, steps: int, progress: Progress) -> Iterator[Report]:
    """Every shape with every seed, the weights drawn by PyTorch and converted."""
    start = _initial(0)
    port = bilstm.port(start, fb.from_state_dict(start.state_dict()))
    for shape in SHAPES:
        for seed in range(seeds):
            weights = _initial(seed).state_dict()
            theirs: Arrays = {name: tensor.numpy() for name, tensor in weights.items()}
            ours = fb.state_dict(fb.from_state_dict(weights))
            yield check_port(
                port.holding(theirs, ours),
                _random_input(seed, *shape, INPUT_DIM),
                case=_case("published size", shape, seed),
                training_steps=_steps(shape, seed, steps),
                seed=seed,
                progress=progress,
            )

    progress("published size: figures")
    yield _drawn(port, start, fb.from_state_dict(start.state_dict()), "published size", INPUT_DIM)


def _drawn(
    port: Port, torch_model: torch.nn.Module, flax_model: Any, what: str, features: int
) -> Report:
    """The figures at the longest shape, as a report without rows."""
    shape = max(SHAPES, key=lambda shape: shape[1])
    x = _random_input(0, *shape, features)
    case = _case(what, shape, 0)
    return Report((), {}, figures.of_model(port, torch_model, flax_model, x, case=case))


def _case(what: str, shape: tuple[int, int], seed: int) -> str:
    return f"{what}: batch {shape[0]}, time {shape[1]}, seed {seed}"


def _steps(shape: tuple[int, int], seed: int, steps: int) -> int:
    return steps if shape == SHAPES[0] and seed == 0 else 0


def _random_input(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _initial(seed: int) -> torch_ref.BiLSTMWithAttention:
    """The published network with PyTorch's own initial weights for a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch_ref.BiLSTMWithAttention(INPUT_DIM, HIDDEN_DIM, OUTPUT_DIM)


def _load_reference(path: Path, flax_model: fb.BiLSTMWithAttention | fb.LSTM) -> torch.nn.Module:
    """The same file in PyTorch, through PyTorch's own loaders, by way of none of our code."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        weights = load_file(path)
    else:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    model: torch.nn.Module
    if isinstance(flax_model, fb.LSTM):
        lstm = flax_model
        model = torch.nn.LSTM(
            lstm.input_size, lstm.hidden_size, lstm.num_layers, bias=lstm.bias,
            bidirectional=lstm.bidirectional, proj_size=lstm.proj_size, batch_first=True,
        )  # fmt: skip
    else:
        lstm, outputs = flax_model.lstm, flax_model.fc.out_features
        model = torch_ref.BiLSTMWithAttention(lstm.input_size, lstm.hidden_size, outputs)
    try:
        dtype = next(iter(weights.values())).dtype
        model.to(dtype).load_state_dict(weights, strict=True)
    except (AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{path}: expected a bare state dict, as torch.save(model.state_dict(), path) writes, "
            "got one that is wrapped or has prefixes; make one with flax-bilstm convert."
        ) from error
    return model
