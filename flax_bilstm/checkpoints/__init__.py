"""State dicts in files and folders.

Reading recognizes the format by the content. Writing chooses the format by the name's ending:
`.pt`, `.pth`, `.ckpt`, `.bin`, `.tar` and `.pkl` are PyTorch's; `.safetensors`; `.orbax`, or no
ending at all, is an Orbax checkpoint directory. Nothing in a checkpoint is ever executed, and
writing is atomic: the whole checkpoint is there, or nothing.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flax import nnx

from flax_bilstm import arguments
from flax_bilstm.checkpoints import orbax_folder, orbax_writing
from flax_bilstm.checkpoints.formats import (
    FORMATS,
    ORBAX,
    SAFETENSORS,
    TORCH,
    Format,
    detect,
    format_of,
)
from flax_bilstm.checkpoints.replacing import replacing
from flax_bilstm.checkpoints.system_errors import in_words
from flax_bilstm.checkpoints.unwrap import PREFIXES, Checkpoint, folded, unwrap
from flax_bilstm.conversion.flax_paths import load_variables
from flax_bilstm.conversion.reading import is_ours
from flax_bilstm.conversion.rows import Names, matches, rows
from flax_bilstm.conversion.weights import (
    from_state_dict,
    load_state_dict,
    state_dict,
)
from flax_bilstm.showing import counted, listed

__all__ = [
    "FORMATS",
    "ORBAX",
    "SAFETENSORS",
    "TORCH",
    "Format",
    "detect",
    "fitting",
    "format_of",
    "load",
    "naming",
    "read",
    "save",
]

_LOG = logging.getLogger("flax_bilstm")


def load(
    path: str | os.PathLike[str],
    into: nnx.Module | None = None,
    *,
    names: Names | None = None,
    ignore: Sequence[str] = (),
    prefix: str | None = None,
    key: str | None = None,
    **options: Any,
) -> Any:
    """The module whose state dict is in the checkpoint `path`.

    The format is recognized by the content: a file of torch.save or of safetensors, a folder of
    Orbax, of Hugging Face or of torch.distributed.checkpoint. The state dict may be inside a
    training checkpoint, and its names may begin with the prefixes of wrappers (`unwrap.PREFIXES`).

    Args:
        path: the file or folder.
        into: the module to load into, any that `load_state_dict` accepts; None makes the one that
            the tensors describe, an `LSTM` or a `BiLSTMWithAttention`.
        names: for `into`, see `load_state_dict`. An Orbax directory has Flax paths.
        ignore: for `into`, see `load_state_dict`. What is left out is logged as a warning.
        prefix: load only the names that begin with it, such as those of one submodule.
        key: where the state dict is in a training checkpoint, with dots between keys; None
            searches for it.
        **options: without `into`, see `from_state_dict`.

    Raises:
        ValueError: it is not a checkpoint, has no state dict or several, or one that does not fit.
        FileNotFoundError: there is no such file.
    """
    arguments.strings("ignore", ignore)
    if into is None:
        if names is not None or ignore:
            raise TypeError("names, ignore: expected only beside into=, the module to load into.")
        checkpoint = read(path, prefix, key)
        with naming(path):
            return from_state_dict(folded(checkpoint).tensors, **options)
    arguments.module("into", into)
    if options:
        raise TypeError(f"into: {', '.join(options)} cannot be set on an existing module.")
    form = _detected(path)
    chosen = () if form is ORBAX else rows(into, names, ignore)
    own = [name for row in chosen for name in row.torch_names]
    keep = [each for each in PREFIXES if own and all(name.startswith(each) for name in own)]
    checkpoint = _read(path, form, prefix, key, keep)
    with naming(path):
        if form is ORBAX:
            skipped = load_variables(into, checkpoint.tensors, ignore=ignore)
        else:
            tensors = fitting(checkpoint, into, names, ignore).tensors
            skipped = load_state_dict(into, tensors, names=names, ignore=ignore)
    for what, left in (("tensor", skipped.tensors), ("variable", skipped.variables)):
        if left:
            _LOG.warning("%s: left out %s: %s", path, counted(len(left), what), listed(left))
    return into


def save(module: nnx.Module, path: str | os.PathLike[str], *, names: Names | None = None) -> None:
    """Write `module`'s state dict to `path`, whose ending determines the format.

    An existing checkpoint is replaced atomically.

    Args:
        module: any module that `state_dict` accepts.
        path: the file, or an Orbax checkpoint directory, which has Flax paths.
        names: see `load_state_dict`.

    Raises:
        ValueError: the name's ending is unknown, or `path` is a folder but not a checkpoint.
        FileNotFoundError: the parent folder of `path` does not exist.
        OSError: it cannot be written, on a full disk for example; nothing has changed.
    """
    writer = format_of(Path(arguments.path("path", path))).write
    arrays = state_dict(module, names=names)
    with in_words(path, "written"), replacing(path) as temporary:
        if writer is None:
            orbax_writing.write(module, temporary)
        else:
            writer(arrays, temporary)


def read(
    path: str | os.PathLike[str], prefix: str | None = None, key: str | None = None
) -> Checkpoint:
    """The contents of the checkpoint `path` for one model, as NumPy arrays under torch's names.

    For an Orbax directory only this library's modules get torch names; others keep their paths.
    Weights stored in parts, by weight_norm for instance, are put together only for this library's
    modules. See `load` for the arguments and the errors.
    """
    form = _detected(path)
    checkpoint = _read(path, form, prefix, key)
    if form is ORBAX:
        return checkpoint._replace(tensors=orbax_folder.to_torch(checkpoint.tensors))
    try:
        whole = folded(checkpoint)
    except ValueError:  # an unknown parametrization, so not a module of this library
        return checkpoint
    return whole if is_ours(whole.tensors) else checkpoint


def fitting(
    checkpoint: Checkpoint, into: nnx.Module, names: Names | None, ignore: Sequence[str]
) -> Checkpoint:
    """The checkpoint, after putting together weights stored in parts that `into` has as one."""
    own = {name for row in rows(into, names, ignore) for name in row.torch_names}
    return folded(checkpoint, own | {n for n in checkpoint.tensors if matches(n, ignore)})


def _detected(path: str | os.PathLike[str]) -> Format:
    place = Path(arguments.path("path", path))
    with in_words(place, "read"):
        return detect(place)


def _read(
    path: str | os.PathLike[str],
    form: Format,
    prefix: str | None,
    key: str | None,
    keep: Sequence[str] = (),
) -> Checkpoint:
    arguments.string_or_none("prefix", prefix)
    arguments.string_or_none("key", key)
    with naming(path), in_words(path, "read"):
        content = form.read(Path(path))
        checkpoint = unwrap(content.tree, prefix, key, keep)
    return checkpoint._replace(notes=content.notes + checkpoint.notes)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put the file's name before the reason for which its content is refused."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
