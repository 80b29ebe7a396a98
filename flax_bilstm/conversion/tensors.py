"""Tensors of PyTorch, and arrays of anything, as NumPy arrays."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np


def to_numpy(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every value as a NumPy array of its own dtype (bfloat16 as ml_dtypes'); no copy if avoidable.

    Raises:
        ValueError: a value is not an array or a dense tensor.
    """
    if not isinstance(state_dict, Mapping):
        raise ValueError(
            "state_dict: expected a mapping from names to tensors, got "
            f"{type(state_dict).__name__}; pass module.state_dict()."
        )
    return {str(name): array_of(str(name), value) for name, value in state_dict.items()}


def array_of(name: str, value: Any) -> np.ndarray:
    """One value; `name` is for the error."""
    if type(value).__module__.partition(".")[0] == "torch" or hasattr(value, "detach"):
        import torch  # the value is torch's, so torch is there

        value = value.detach().cpu()
        if value.dtype == torch.bfloat16:  # NumPy has no bfloat16 of its own
            return value.contiguous().view(torch.int16).numpy().view(jnp.bfloat16)
        return value.numpy()
    array = np.asarray(value)
    if array.dtype == object:
        raise ValueError(f"{name}: expected a tensor or array, got {type(value).__name__}.")
    return array
