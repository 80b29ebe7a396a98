"""The inputs of a check by name, and similar batches for training."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

import flax_bilstm as fb
from flax_bilstm.conversion import tensors
from parity.sides.side import Arrays, Side, floating, outputs, real, whole
from parity.tolerances import TRUTH, epsilon


def named(x: Any, torch_model: Any, flax_model: Any) -> dict[str, np.ndarray]:
    """One array as "x", several as "x0", "x1" and so on; inputs of our models by their meaning.

    Raises:
        ValueError: several inputs are in a list, one of an LSTM is not floating, or there are too
            many.
    """
    if isinstance(x, Mapping):
        return {name: tensors.array_of(f"x: {name}", array) for name, array in x.items()}
    if isinstance(x, list) and any(hasattr(each, "shape") and each.ndim for each in x):
        raise ValueError(
            f"x: expected an array, or a tuple of several, got a list of {len(x)} arrays; several "
            "inputs by position are a tuple"
        )
    arrays = [tensors.array_of("x", each) for each in (x if isinstance(x, tuple) else (x,))]
    ours = _lstms(torch_model, flax_model)
    if not (ours or isinstance(flax_model, fb.BiLSTMWithAttention)):
        return {"x": arrays[0]} if len(arrays) == 1 else {f"x{i}": a for i, a in enumerate(arrays)}
    if not floating(arrays[0]):
        raise ValueError(f"x: expected floating numbers, got {arrays[0].dtype}; cast it first")
    states = dict(zip(("h_0", "c_0") if ours else (), filter(floating, arrays[1:]), strict=False))
    lengths = [array for array in arrays[1:] if not floating(array)]
    if len(states) == 1 or len(lengths) > 1 or 1 + len(states) + len(lengths) != len(arrays):
        raise ValueError(
            f"x: expected x, then {'h_0 and c_0 and ' if ours else ''}lengths (integers) or less, "
            f"got {len(arrays)} arrays of {[str(a.dtype) for a in arrays]}"
        )
    return {"x": arrays[0], **states, **dict(zip(["lengths"], lengths, strict=False))}


def like_lengths(inputs: Arrays) -> list[str]:
    """The names of the inputs that may be lengths: whole numbers, of which no step is too many."""
    padded = [array.shape[:2] for array in inputs.values() if array.ndim > 1]
    return [
        name for name, array in inputs.items()
        if array.dtype.kind in "iu" and array.ndim == 1 and array.size
        and any(len(array) == batch and 0 < array.min() <= array.max() <= time
                for batch, time in padded)
    ]  # fmt: skip


def lengths_of(inputs: Arrays, torch_model: Any, flax_model: Any) -> np.ndarray | None:
    """The length of every sequence, if the models take lengths that are not in the inputs.

    Only models of this package are known to; any other model gets only what it is given.
    """
    lstms = _lstms(torch_model, flax_model)
    if not (lstms or isinstance(flax_model, fb.BiLSTMWithAttention)) or inputs["x"].ndim != 3:
        return None
    time_first = lstms and not torch_model.batch_first
    time, batch = inputs["x"].shape[:2] if time_first else inputs["x"].shape[1::-1]
    return np.full(batch, time)


def _lstms(torch_model: Any, flax_model: Any) -> bool:
    return isinstance(flax_model, fb.LSTM) and isinstance(torch_model, torch.nn.LSTM)


def target_shape(reference: Side, inputs: Arrays) -> tuple[int, ...]:
    """The shape of the loss's target: of the reference's floating outputs, joined in one array.

    Complex ones count with both parts.
    """
    stages = reference.forward(reference.parameters, inputs, TRUTH)
    given = (stages[name] for name in outputs(stages, reference.output))
    parts = [part for array in given for part in real(array) if floating(part)]
    if not parts:
        raise ValueError(
            "loss: torch_model returns no floating numbers that it could compare with a target: "
            "return scores too, or give another loss="
        )
    return parts[0].shape if len(parts) == 1 else (sum(part.size for part in parts),)


def another_batch(inputs: Arrays, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Similar inputs: the same values in another order, so that they stay valid inputs.

    All arrays of the batch's size are permuted alike along their first axis, so that what belongs
    together stays together. Floating numbers are changed by up to a hundredth of themselves:
    none leaves their range, and whole ones stay as they are. Sorted lengths are sorted again.
    """
    sizes = [array.shape[0] for array in inputs.values() if array.ndim]
    size = max(set(sizes), key=sizes.count) if sizes else 0
    order = rng.permutation(size)
    for array in inputs.values():
        if array.shape == order.shape and array.dtype.kind in "iu":
            for key in (array.astype(np.int64), -array.astype(np.int64)):
                if np.all(np.diff(key) >= 0):
                    order = order[np.argsort(key[order], kind="stable")]
                    break

    def moved(name: str, array: np.ndarray) -> np.ndarray:
        if array.ndim and array.shape[0] == size:
            array = array[order]
        if not floating(array):
            return array
        changed = array * (1 + 0.01 * rng.uniform(-1, 1, array.shape)).astype(array.dtype)
        if array.size:  # a probability stays one
            changed = np.clip(changed, np.nanmin(array), np.nanmax(array))
        return np.where(whole(array, epsilon(str(array.dtype))), array, changed)

    return {name: moved(name, array) for name, array in inputs.items()}
