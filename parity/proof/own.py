"""A user's port: two functions that make the models, a checkpoint for both, and inputs."""

import importlib
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from flax import nnx

import flax_bilstm as fb
from flax_bilstm import checkpoints
from flax_bilstm.showing import shown
from parity.checking import check_pair
from parity.checks import Progress
from parity.place import Case
from parity.proof.published import torch_weights
from parity.report import Report
from parity.sides import data, pair
from parity.sides.side import TARGET
from parity.sides.variants import varied

MOST_NUMBERS = 2**30
"""Most random numbers, of all inputs, seeds and steps."""

FILES = (".npz", ".npy")
INPUT = "FILE.npz, FILE.npy, 4x11x16 (normal numbers) or 4x11:100 (whole numbers below 100)"


def proof(
    checkpoint: Path | None,
    reference: str,
    candidate: str,
    inputs: Sequence[str],
    *,
    names: Mapping[str, str],
    ignore: Sequence[str],
    variants: Sequence[str],
    known: Mapping[str, str],
    seeds: int,
    steps: int,
    progress: Progress,
) -> Report:
    """Check the models that two functions make.

    Args:
        checkpoint: the file that both models load; None leaves them as they are made.
        reference: the "package.module:function" that makes the `torch.nn.Module`.
        candidate: the same for the `nnx.Module`, or for a function of a state dict and the inputs.
        inputs: see INPUT; one or several, as the models take them by position.
        names: see `parity.check`.
        ignore: see `parity.check`.
        variants: see `parity.check`; of the first inputs.
        known: see `parity.check`.
        seeds: how often random inputs are drawn.
        steps: the number of training steps, with the first inputs.
        progress: called with what comes next.

    Raises:
        ValueError: the functions do not make a pair of models, or these do not take the inputs.
        OSError: a file cannot be read.
    """
    _check_amount(inputs, seeds, steps)
    always = all(each.endswith(FILES) for each in inputs)
    drawn: list[Any] = [_inputs(inputs, seed) for seed in range(1 if always else seeds)]
    theirs = made("--reference", reference, torch.nn.Module)
    ours = made("--candidate", candidate, nnx.Module, Callable)
    if checkpoint is not None:
        _load(checkpoint, theirs, ours, names, ignore)
    drawn = [data.named(x, theirs, ours) if isinstance(x, tuple) else x for x in drawn]
    targets = tuple(name for name in drawn[0] if name == TARGET)
    sides = pair.of_modules(
        theirs, ours, drawn[0], names=names, ignore=ignore, targets=targets, known=known
    )
    what = reference if checkpoint is None else checkpoint.name
    full = data.lengths_of(drawn[0], theirs, ours)
    return Report.joined(
        check_pair(
            sides, changed, case=Case(what, f"seed {seed}{variant and f', {variant}'}"), seed=seed,
            training_steps=0 if seed or variant else steps, targeted=not targets, progress=progress,
        )
        for seed, x in enumerate(drawn)
        for variant, changed in varied(x, () if seed else variants, full)
    )  # fmt: skip


def made(option: str, spec: str, *kinds: Any) -> Any:
    """The result of the function that `spec` names as package.module:function.

    Raises:
        ValueError: there is no such function, it raises, or its result is none of these kinds.
    """
    module, _, function = spec.partition(":")
    if not module or not function:
        raise ValueError(f"{option}: expected package.module:function, got {spec!r}")
    if os.getcwd() not in sys.path:  # as `python -m` does: the user's code is there
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function)()
    except Exception as error:  # the user's code can raise anything
        raise ValueError(
            f"{option}: expected {spec} to be a function without arguments; it raised "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, kinds):
        expected = " or ".join("a function" if k is Callable else _called(k) for k in kinds)
        raise ValueError(
            f"{option}: expected {spec} to make {expected}, it made {_called(type(found))}"
        )
    return found


def _called(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _load(
    path: Path, theirs: torch.nn.Module, ours: Any, names: Mapping[str, str], ignore: Sequence[str]
) -> None:
    """Load the checkpoint into both models, each by its framework's loader."""
    checkpoints.read(path)  # an unreadable file raises our message
    weights = torch_weights(path)
    try:
        theirs.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{path}: --reference does not load it: {error}") from error
    if isinstance(ours, nnx.Module):
        fb.load(path, into=ours, names=names, ignore=ignore)


def _inputs(given: Sequence[str], seed: int) -> dict[str, np.ndarray] | tuple[np.ndarray, ...]:
    """The inputs for a seed: the arrays of a .npz by name, others by position."""
    if len(given) > 1 and any(each.endswith(".npz") for each in given):
        raise ValueError(f"--input: expected one .npz alone, or none, got {list(given)}")
    rng = np.random.default_rng(seed)
    arrays = [_file(each) if each.endswith(FILES) else _drawn(each, rng) for each in given]
    return arrays[0] if isinstance(arrays[0], dict) else tuple(arrays)


def _check_amount(given: Sequence[str], seeds: int, steps: int) -> None:
    """Refuse sizes whose random numbers, drawn for each seed and step, would fill the memory."""
    each = sum(math.prod(_shape(one)[0]) for one in given if not one.endswith(FILES))
    if each * (seeds + steps) > MOST_NUMBERS:
        raise ValueError(
            f"--input: expected at most {MOST_NUMBERS:,} random numbers in all, got "
            f"{shown(f'{each:,}')} for each of {seeds} seeds and {steps} steps; choose smaller "
            "sizes"
        )


def _file(path: str) -> Any:
    """The array of a .npy, or the arrays of a .npz by name."""
    try:
        held = np.load(path)
        return {name: held[name] for name in held.files} if path.endswith(".npz") else held
    except (ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"--input: {path} holds no arrays that NumPy reads: {error}") from error


def _drawn(given: str, rng: np.random.Generator) -> np.ndarray:
    """Random numbers of a shape such as "4x11x16"; for "4x11:100" integers below 100."""
    shape, below = _shape(given)
    if below is not None:
        return rng.integers(0, below, shape)
    return rng.standard_normal(shape, dtype=np.float32)


def _shape(given: str) -> tuple[tuple[int, ...], int | None]:
    """The shape, and what integers are below; None for normal numbers."""
    found = re.fullmatch(r"(\d{1,18}(?:x\d{1,18}){0,31})(?::([1-9]\d{0,17}))?", given)
    if not found:
        raise ValueError(f"--input: expected {INPUT}, got {shown(given)}")
    return tuple(map(int, found[1].split("x"))), int(found[2]) if found[2] else None
