"""Arrays of PyTorch as arrays of NumPy and back."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import torch

from flax_bilstm.conversion import tensors

Tensors = Mapping[str, torch.Tensor]


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """A copy in NumPy, of bfloat16 too."""
    return view_of(tensor).copy()


def view_of(tensor: torch.Tensor) -> np.ndarray:
    """The same memory in NumPy, of bfloat16 too, if the tensor is on the CPU."""
    return tensors.array_of("tensor", tensor)


def tensor_of(array: np.ndarray, shared: bool = False) -> torch.Tensor:
    """A copy in PyTorch, of bfloat16 too; or the same memory, if that is allowed and writable."""
    held = array.view(np.int16) if array.dtype == jnp.bfloat16 else array
    tensor = torch.from_numpy(held if shared and held.flags.writeable else np.array(held))
    return tensor.view(torch.bfloat16) if array.dtype == jnp.bfloat16 else tensor
