"""State dicts in files and folders, in a format that the name's ending tells.

`.pt`, `.pth`, `.ckpt` and `.bin` are PyTorch's; `.safetensors`; `.orbax`, or no ending at all, is
an Orbax checkpoint directory. Nothing that a checkpoint contains is ever executed, and what is
written is there whole or not at all.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from flax_bilstm.checkpoints import orbax_folder, safetensors_file, torch_file
from flax_bilstm.checkpoints.replacing import kind_of, replacing
from flax_bilstm.checkpoints.unwrap import Checkpoint, unwrap
from flax_bilstm.conversion.rows import Names
from flax_bilstm.conversion.weights import (
    from_state_dict,
    load_state_dict,
    load_variables,
    state_dict,
)

_LOG = logging.getLogger("flax_bilstm")


class Format(NamedTuple):
    """How one kind of checkpoint is read, wrappings and all, and how a module is written."""

    title: str
    read: Callable[[Path], Mapping[Any, Any]]
    write: Callable[[Mapping[str, np.ndarray], Path], None] | None


TORCH = Format("PyTorch", torch_file.read, torch_file.write)
SAFETENSORS = Format("safetensors", safetensors_file.read, safetensors_file.write)
ORBAX = Format("Orbax", orbax_folder.read, None)
FORMATS = {
    ".pt": TORCH,
    ".pth": TORCH,
    ".ckpt": TORCH,
    ".bin": TORCH,
    ".safetensors": SAFETENSORS,
    ".orbax": ORBAX,
    "": ORBAX,
}


def load(
    path: str | os.PathLike[str],
    into: nnx.Module | None = None,
    *,
    names: Names | None = None,
    ignore: Sequence[str] = (),
    prefix: str | None = None,
    **options: Any,
) -> Any:
    """The module whose state dict is in the checkpoint `path`.

    The state dict may lie in a training checkpoint, under "state_dict", "model_state_dict" or
    "model", and its names may begin with "module.", "_orig_mod." and "model.".

    Args:
        path: the file, or an Orbax checkpoint directory.
        into: the module to load into, any that `load_state_dict` takes; None makes the one that
            the tensors describe, an `LSTM` or a `BiLSTMWithAttention`.
        names: for `into`, see `load_state_dict`. An Orbax directory has Flax's own paths.
        ignore: for `into`, see `load_state_dict`. What it left out is logged as a warning.
        prefix: takes only the names that begin with it, as those of one submodule do.
        **options: without `into`, see `from_state_dict`.

    Raises:
        ValueError: the name's ending is unknown, it holds no state dict, or that does not fit.
        FileNotFoundError: there is no such file.
        ImportError: it is a PyTorch file, and PyTorch is not installed.
    """
    if into is None:
        tensors = read(path, prefix).tensors
        with naming(path):
            return from_state_dict(tensors, **options)
    if options:
        raise TypeError(f"into: {', '.join(options)} cannot be set on a module that is there.")
    checkpoint = _read(path, prefix)
    with naming(path):
        if format_of(path) is ORBAX:
            skipped = load_variables(into, checkpoint.tensors, ignore=ignore)
        else:
            skipped = load_state_dict(into, checkpoint.tensors, names=names, ignore=ignore)
    for what, left in (("tensors", skipped.tensors), ("variables", skipped.variables)):
        if left:
            _LOG.warning("%s: left out %d %s: %s", path, len(left), what, ", ".join(left[:8]))
    return into


def save(module: nnx.Module, path: str | os.PathLike[str], *, names: Names | None = None) -> None:
    """Write `module`'s state dict to `path`, whose ending names the format.

    An existing checkpoint is replaced, at once and whole.

    Args:
        module: any module that `state_dict` takes.
        path: the file, or an Orbax checkpoint directory, which has Flax's own paths.
        names: see `load_state_dict`.

    Raises:
        ValueError: the name's ending is unknown, or `path` is a folder that is no checkpoint.
        FileNotFoundError: the folder that `path` is to be in does not exist.
        ImportError: it is a PyTorch file, and PyTorch is not installed.
    """
    writer = format_of(path).write
    arrays = state_dict(module, names=names)
    with replacing(path) as temporary:
        if writer is None:
            orbax_folder.write(module, temporary)
        else:
            writer(arrays, temporary)


def read(path: str | os.PathLike[str], prefix: str | None = None) -> Checkpoint:
    """What the checkpoint `path` holds for one model, as NumPy arrays under torch's names.

    Of an Orbax directory only our own modules' variables have torch names; others keep their paths.
    """
    checkpoint = _read(path, prefix)
    if format_of(path) is ORBAX:
        return checkpoint._replace(tensors=orbax_folder.to_torch(checkpoint.tensors))
    return checkpoint


def _read(path: str | os.PathLike[str], prefix: str | None) -> Checkpoint:
    path = Path(path)
    form = format_of(path)
    expected, there = ("a folder", path.is_dir) if form is ORBAX else ("a file", path.is_file)
    if not there():
        raise FileNotFoundError(
            f"{path}: expected {expected}, {form.title} by its name, found {kind_of(path)}."
        )
    content = form.read(path)
    with naming(path):
        return unwrap(content, prefix)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put the file's name before what its content is refused for."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def format_of(path: str | os.PathLike[str]) -> Format:
    """The format that a name's ending tells.

    Raises:
        ValueError: the ending is unknown.
    """
    suffix = Path(path).suffix
    if suffix not in FORMATS:
        raise ValueError(
            f"{path}: expected a name ending in one of {', '.join(filter(None, FORMATS))}, or in "
            f"none for an Orbax checkpoint directory, got {suffix}."
        )
    return FORMATS[suffix]
