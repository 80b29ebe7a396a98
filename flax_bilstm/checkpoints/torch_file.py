"""PyTorch's own files (torch.save), read as data: with weights_only=True, whatever they hold."""

import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

_SAVE_A_STATE_DICT = (
    "In the PyTorch program that can open it, run torch.save(model.state_dict(), path), and "
    "convert that file."
)


def read(path: Path) -> dict[Any, Any]:
    """What the file holds: a state dict, or a training checkpoint with one in it.

    Raises:
        ValueError: the file holds anything but tensors and plain containers, or is damaged.
        ImportError: PyTorch is not installed.
    """
    torch = _torch(path)
    with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged bytes can end in any exception at all
            raise ValueError(f"{path}: {_what_is_wrong(error)}") from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path}: expected a state dict (a mapping from names to tensors), got a "
            f"{type(content).__name__}. {_SAVE_A_STATE_DICT}"
        )
    return dict(content)


def write(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Write the state dict as torch.save(model.state_dict(), path) would."""
    torch = _torch(path)

    def tensor(array: np.ndarray) -> Any:
        if array.dtype == jnp.bfloat16:
            return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
        return torch.from_numpy(array.copy())

    torch.save(OrderedDict((name, tensor(array)) for name, array in arrays.items()), path)


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path.name}: {path.suffix} files need PyTorch, which is not installed; run pip "
            "install 'flax-bilstm[torch]', or use a .safetensors file."
        ) from error
    return torch


def _what_is_wrong(error: Exception) -> str:
    found = re.search(r"GLOBAL ([\w.]+)|(TorchScript)", str(error))
    if found:
        return (
            f"expected a state dict, got a file that holds {found[1] or found[2]}, which could run "
            "code as it is loaded. It was refused, and nothing in it was executed. "
            f"{_SAVE_A_STATE_DICT}"
        )
    return (
        "expected a file written by torch.save, got another or a damaged one: "
        f"{_first_sentence(error)}. {_SAVE_A_STATE_DICT}"
    )


def _first_sentence(error: Exception) -> str:
    """What PyTorch found; the rest of its message advises to trust the file."""
    before, _, after = str(error).partition("WeightsUnpickler error:")
    found = (after or before).strip().partition("\n")[0].partition(". ")[0]
    return found if " " in found else type(error).__name__
