"""The proofs of `parity`: the published size at several shapes and seeds, digits, a checkpoint."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch

import flax_bilstm as fb
import torch_ref
from parity.checking import check_pair
from parity.checks import Progress
from parity.place import Case
from parity.proof import digits, figures, parts
from parity.report import Report
from parity.sides import pair
from parity.sides.optimizers import OPTIMIZERS
from parity.sides.side import Arrays, Pair

INPUT_DIM, HIDDEN_DIM, OUTPUT_DIM = 128, 64, 1
LOUDNESS = (1.0, 30.0, 0.1)
"""Factors of the standard normal inputs, one after another by seed: large inputs saturate gates."""


class Shape(NamedTuple):
    """The shape of a batch; a padded one has sequences of all lengths and garbage as padding."""

    batch: int
    time: int
    padded: bool = False


SHAPES = (
    Shape(4, 12), Shape(1, 12), Shape(4, 1), Shape(1, 1), Shape(5, 9, padded=True), Shape(8, 50),
    Shape(33, 70),
)  # fmt: skip
"""Training is checked at the first. The last one is above 32 sequences and 64 steps, the sizes from
which on implementations compute differently."""
DRAWN = Shape(8, 50)


def whole(seeds: int, steps: int, jobs: int, progress: Progress) -> Report:
    """The published size with random weights, then the digits; `jobs` processes at once."""
    published = [partial(_published, shape, seeds, steps) for shape in SHAPES]
    real, *reports = parts.prove([digits.prove, *reversed(published)], jobs, progress)
    return Report.joined([*reversed(reports), real])


def of_checkpoint(path: Path, seeds: int, steps: int, jobs: int, progress: Progress) -> Report:
    """Check the checkpoint as both frameworks load it: several shapes, one random input per seed.

    Raises:
        ValueError: the file does not hold a state dict of the network or of an LSTM.
        OSError: it cannot be read.
    """
    _loaded(path)  # raises for an unreadable file before any process is started
    each = [partial(_checkpoint, path, shape, seeds, steps) for shape in SHAPES]
    return Report.joined(parts.prove(each, jobs, progress))


def _loaded(path: Path) -> tuple[torch.nn.Module, Any]:
    """The models that both frameworks make of the file."""
    with jax.enable_x64(True):  # keeps a float64 checkpoint float64
        flax_model = fb.load(path)
    return _load_reference(path, flax_model), flax_model


def _checkpoint(path: Path, shape: Shape, seeds: int, steps: int, progress: Progress) -> Report:
    """One shape of a checkpoint, with every seed."""
    torch_model, flax_model = _loaded(path)
    network = isinstance(flax_model, fb.BiLSTMWithAttention)
    features = (flax_model.lstm if network else flax_model).input_size
    sides = _sides(torch_model, flax_model, shape, features)
    drawn = _drawn(torch_model, flax_model, path.name, shape, features, progress)
    held = [sides] * seeds
    return Report.joined([*_at(shape, held, steps, path.name, features, progress), *drawn])


def _published(shape: Shape, seeds: int, steps: int, progress: Progress) -> Report:
    """One shape with every seed, the weights drawn by PyTorch and converted."""
    start = _initial(0)
    flax_model = fb.from_state_dict(start.state_dict())
    sides = _sides(start, flax_model, shape, INPUT_DIM)

    def holding(seed: int) -> Pair:
        weights = _initial(seed).state_dict()
        theirs: Arrays = {name: tensor.numpy() for name, tensor in weights.items()}
        return sides.holding(theirs, fb.state_dict(fb.from_state_dict(weights)))

    what, held = "published size", map(holding, range(seeds))
    drawn = _drawn(start, flax_model, what, shape, INPUT_DIM, progress)
    return Report.joined([*_at(shape, held, steps, what, INPUT_DIM, progress), *drawn])


def _sides(torch_model: torch.nn.Module, flax_model: Any, shape: Shape, features: int) -> Pair:
    return pair.of_modules(torch_model, flax_model, _random_inputs(0, shape, features))


def _at(
    shape: Shape, pairs: Iterable[Pair], steps: int, what: str, features: int, progress: Progress
) -> Iterator[Report]:
    """Check one shape, with seeds 0, 1 and so on, one for each of the pairs."""
    for seed, sides in enumerate(pairs):
        yield check_pair(
            sides,
            _random_inputs(seed, shape, features),
            case=_case(what, shape, seed),
            training_steps=_steps(shape, seed, steps),
            optimizers=OPTIMIZERS,
            seed=seed,
            progress=progress,
        )


def _drawn(
    torch_model: Any, flax_model: Any, what: str, shape: Shape, features: int, progress: Progress
) -> Iterator[Report]:
    """A report without rows that has the figures, for the shape that is drawn."""
    if shape != DRAWN:
        return
    progress(f"{what}: figures")
    x, case = _random_inputs(0, shape, features)["x"], str(_case(what, shape, 0))
    if isinstance(flax_model, fb.LSTM):
        yield Report(
            (), {}, {"stage_errors": figures.stage_errors(torch_model, flax_model, x, case)}
        )
        return
    errors = figures.stage_errors(torch_model.lstm, flax_model.lstm, x, case)
    weights = figures.attention(torch_model, flax_model, x, case)
    yield Report((), {}, {"stage_errors": errors, "attention": [weights]})


def _case(what: str, shape: Shape, seed: int) -> Case:
    padded = ", padded" if shape.padded else ""
    return Case(what, f"batch {shape.batch}, time {shape.time}{padded}, seed {seed}")


def _steps(shape: Shape, seed: int, steps: int) -> int:
    return steps if shape == SHAPES[0] and seed == 0 else 0


def _random_inputs(seed: int, shape: Shape, features: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((shape.batch, shape.time, features), dtype=np.float32)
    x *= LOUDNESS[seed % len(LOUDNESS)]
    if not shape.padded:
        return {"x": x}
    lengths = np.linspace(1, shape.time, shape.batch).astype(int)
    return {"x": x, "lengths": rng.permutation(lengths)}


def _initial(seed: int) -> torch_ref.BiLSTMWithAttention:
    """The published network with PyTorch's initial weights for this seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch_ref.BiLSTMWithAttention(INPUT_DIM, HIDDEN_DIM, OUTPUT_DIM)


def _load_reference(path: Path, flax_model: fb.BiLSTMWithAttention | fb.LSTM) -> torch.nn.Module:
    """The same file as a PyTorch model."""
    weights = torch_weights(path)
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
    except RuntimeError as error:
        raise ValueError(_wrapped(path)) from error
    return model


def torch_weights(path: Path) -> dict[str, torch.Tensor]:
    """The file's state dict, through PyTorch's loaders and none of this package's code.

    Raises:
        ValueError: the file does not contain a state dict.
        OSError: it cannot be read.
    """
    if path.is_dir():
        raise ValueError(_wrapped(path))
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
        raise ValueError(_wrapped(path))
    return weights


def _wrapped(path: Path) -> str:
    return (
        f"{path}: expected a bare state dict, as torch.save(model.state_dict(), path) writes, got "
        "a folder, or one that is wrapped or has prefixes; make one with flax-bilstm convert."
    )
