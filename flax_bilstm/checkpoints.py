"""State dicts in files: `.pt` and `.pth` (PyTorch, read with weights_only=True), `.safetensors`.

A file is written under a temporary name beside its own and then renamed: it is there whole, or it
is not there. Nothing that a checkpoint contains is ever executed.
"""

import os
import pickle
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from flax_bilstm.state_dict import from_state_dict, state_dict, to_numpy
from flax_bilstm.state_dict_table import Module


class Format(NamedTuple):
    """How one kind of file is read into a state dict and written from one."""

    read: Callable[[Path], dict[str, np.ndarray]]
    write: Callable[[dict[str, np.ndarray], Path], None]


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
        ImportError: a `.pt` or `.pth` file, and PyTorch is not installed.
    """
    write(state_dict(module), path)


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The state dict in the file `path`, as NumPy arrays under torch's names."""
    path = Path(path)
    reader = format_of(path).read
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file, found {_what_is(path)}.")
    return reader(path)


def write(arrays: dict[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    """Write a state dict to `path`, under a temporary name first."""
    path = Path(path)
    writer = format_of(path).write
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path}: expected the folder {path.parent} to exist, found {_what_is(path.parent)}."
        )
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        writer(arrays, temporary)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp's files are private; a checkpoint is not
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def format_of(path: Path) -> Format:
    """The format that a file's ending names."""
    if path.suffix not in FORMATS:
        raise ValueError(
            f"{path}: expected a name ending in one of {', '.join(FORMATS)}, got "
            f"{path.suffix or 'no ending'!r}."
        )
    return FORMATS[path.suffix]


def _what_is(path: Path) -> str:
    return "a folder" if path.is_dir() else "a file" if path.exists() else "nothing"


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path}: {path.suffix} files need PyTorch, which is not installed; install it, or use "
            "a .safetensors file."
        ) from error
    return torch


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    torch = _torch(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path}: expected a state dict saved with torch.save(model.state_dict(), path), got a "
            "file that holds more than tensors, or is damaged. Nothing in it was executed. Save "
            f"the state dict in PyTorch and convert that. ({str(error).splitlines()[0]})"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path}: expected a state dict (a mapping from names to tensors), got "
            f"{type(content).__name__}."
        )
    return to_numpy(content)


def _write_torch(arrays: dict[str, np.ndarray], path: Path) -> None:
    torch = _torch(path)

    def tensor(array: np.ndarray) -> Any:
        if array.dtype == jnp.bfloat16:
            return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
        return torch.from_numpy(array.copy())

    tensors = OrderedDict((name, tensor(array)) for name, array in arrays.items())
    torch.save(tensors, path)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import safetensors
    import safetensors.numpy

    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path}: expected a safetensors file, got a damaged one: {error}."
        ) from error


def _write_safetensors(arrays: dict[str, np.ndarray], path: Path) -> None:
    import safetensors.numpy

    safetensors.numpy.save_file(arrays, path, metadata={"format": "pt"})


FORMATS = {
    ".pt": Format(_read_torch, _write_torch),
    ".pth": Format(_read_torch, _write_torch),
    ".safetensors": Format(_read_safetensors, _write_safetensors),
}
