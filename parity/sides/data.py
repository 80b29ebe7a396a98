"""The inputs of a check: by name, and other batches of their kind to train on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

import flax_bilstm as fb
from parity.sides.side import Arrays, floating


def named(x: Any, torch_model: Any, flax_model: Any) -> dict[str, np.ndarray]:
    """One array as "x", several as "x0", "x1" and so on; our own models' by what they are.

    Raises:
        ValueError: an input of an LSTM is not floating, or is one too many.
    """
    if isinstance(x, Mapping):
        return {name: np.asarray(array) for name, array in x.items()}
    arrays = [np.asarray(each) for each in (x if isinstance(x, tuple) else (x,))]
    ours = isinstance(flax_model, fb.LSTM) and isinstance(torch_model, torch.nn.LSTM)
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


def target_shape(stages: Arrays) -> tuple[int, ...]:
    """The shape of the floating outputs in one array."""
    outputs = [
        array
        for name, array in stages.items()
        if (name == "output" or name.startswith("output.")) and floating(array)
    ] or list(stages.values())[-1:]
    return outputs[0].shape if len(outputs) == 1 else (sum(array.size for array in outputs),)


def another_batch(inputs: Arrays, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Inputs of the same kind: what occurs, in another order, so that what holds of it still does.

    All arrays of a batch's size are put in one new order along their first axis, and floating
    numbers moved by up to a hundredth of themselves: positive ones stay positive, zeros zeros,
    sorted lengths are sorted again, what belongs together stays together.
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
        if not floating(array) or set(np.unique(array)) <= {0.0, 1.0}:
            return array
        return array * (1 + 0.01 * rng.uniform(-1, 1, array.shape)).astype(array.dtype)

    return {name: moved(name, array) for name, array in inputs.items()}
