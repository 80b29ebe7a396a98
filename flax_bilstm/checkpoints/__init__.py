"""State dicts in files: PyTorch's `.pt` and `.pth`, `.safetensors`; the ending names the format.

Nothing that a checkpoint contains is ever executed, and a file is there whole or not at all.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flax_bilstm.checkpoints import safetensors_file, torch_file
from flax_bilstm.checkpoints.replacing import kind_of, replacing
from flax_bilstm.state_dict import from_state_dict, state_dict
from flax_bilstm.state_dict_table import Module


class Format(NamedTuple):
    """How one kind of file is read into a state dict and written from one."""

    read: Callable[[Path], dict[str, np.ndarray]]
    write: Callable[[dict[str, np.ndarray], Path], None]


FORMATS = {
    ".pt": Format(torch_file.read, torch_file.write),
    ".pth": Format(torch_file.read, torch_file.write),
    ".safetensors": Format(safetensors_file.read, safetensors_file.write),
}


def load(path: str | os.PathLike[str], **options: Any) -> Any:
    """The module whose state dict is in the file `path`; see `from_state_dict` for the options.

    Raises:
        ValueError: the name's ending is unknown, the file holds no state dict, or it does not fit.
        FileNotFoundError: there is no such file.
        ImportError: a `.pt` or `.pth` file, and PyTorch is not installed.
    """
    return from_state_dict(read(path), **options)


def save(module: Module, path: str | os.PathLike[str]) -> None:
    """Write `module`'s state dict, under torch's names, to `path`, whose ending names the format.

    An existing file is replaced, at once and whole.

    Raises:
        ValueError: the name's ending is unknown.
        FileNotFoundError: the folder that `path` is to be in does not exist.
        ImportError: a `.pt` or `.pth` file, and PyTorch is not installed.
    """
    arrays = state_dict(module)
    writer = format_of(path).write
    with replacing(path) as temporary:
        writer(arrays, temporary)


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The state dict in the file `path`, as NumPy arrays under torch's names."""
    path = Path(path)
    reader = format_of(path).read
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file, found {kind_of(path)}.")
    return reader(path)


def format_of(path: str | os.PathLike[str]) -> Format:
    """The format that a file's ending names."""
    suffix = Path(path).suffix
    if suffix not in FORMATS:
        raise ValueError(
            f"{path}: expected a name ending in one of {', '.join(FORMATS)}, got "
            f"{suffix or 'no ending'}."
        )
    return FORMATS[suffix]
