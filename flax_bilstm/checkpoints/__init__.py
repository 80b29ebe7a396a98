"""State dicts in files and folders.

What is read is known by its content. What is written is in the format that the name's ending tells:
`.pt`, `.pth`, `.ckpt`, `.bin`, `.tar` and `.pkl` are PyTorch's; `.safetensors`; `.orbax`, or no
ending at all, is an Orbax checkpoint directory. Nothing that a checkpoint contains is ever
executed, and what is written is there whole or not at all.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flax import nnx

from flax_bilstm import arguments
from flax_bilstm.checkpoints import orbax_folder
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
from flax_bilstm.checkpoints.unwrap import PREFIXES, Checkpoint, folded, unwrap
from flax_bilstm.conversion.reading import is_ours
from flax_bilstm.conversion.rows import Names, matches, rows
from flax_bilstm.conversion.weights import (
    from_state_dict,
    load_state_dict,
    load_variables,
    state_dict,
)

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

    What it is, its content says: a file of torch.save or of safetensors, a folder of Orbax, of
    Hugging Face or of torch.distributed.checkpoint. The state dict may lie in a training
    checkpoint, and its names may begin with the wrappers of `unwrap.PREFIXES`.

    Args:
        path: the file or folder.
        into: the module to load into, any that `load_state_dict` takes; None makes the one that
            the tensors describe, an `LSTM` or a `BiLSTMWithAttention`.
        names: for `into`, see `load_state_dict`. An Orbax directory has Flax's own paths.
        ignore: for `into`, see `load_state_dict`. What it left out is logged as a warning.
        prefix: takes only the names that begin with it, as those of one submodule do.
        key: where the state dict lies in a training checkpoint, with dots between keys; None
            finds it, where there is one.
        **options: without `into`, see `from_state_dict`.

    Raises:
        ValueError: it is no checkpoint, holds no state dict or several, or that does not fit.
        FileNotFoundError: there is no such file.
    """
    if into is None:
        if names is not None or ignore:
            raise TypeError("names, ignore: expected only beside into=, the module to load into.")
        checkpoint = read(path, prefix, key)
        with naming(path):
            return from_state_dict(folded(checkpoint).tensors, **options)
    if not isinstance(into, nnx.Module):
        raise TypeError(f"into: expected an nnx.Module, got {arguments.quoted(into)}.")
    if options:
        raise TypeError(f"into: {', '.join(options)} cannot be set on a module that is there.")
    form = detect(Path(arguments.path("path", path)))
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
        OSError: it cannot be written, on a full disk for example; nothing was.
    """
    writer = format_of(Path(arguments.path("path", path))).write
    arrays = state_dict(module, names=names)
    with replacing(path) as temporary:
        if writer is None:
            orbax_folder.write(module, temporary)
        else:
            writer(arrays, temporary)


def read(
    path: str | os.PathLike[str], prefix: str | None = None, key: str | None = None
) -> Checkpoint:
    """What the checkpoint `path` holds for one model, as NumPy arrays under torch's names.

    Of an Orbax directory only our own modules' variables have torch names; others keep their paths.
    Weights in parts, weight_norm's for instance, are put together in our own modules only.
    See `load` for the arguments and the errors.
    """
    form = detect(Path(arguments.path("path", path)))
    checkpoint = _read(path, form, prefix, key)
    if form is ORBAX:
        return checkpoint._replace(tensors=orbax_folder.to_torch(checkpoint.tensors))
    try:
        whole = folded(checkpoint)
    except ValueError:  # a parametrization that is not known, so not ours
        return checkpoint
    return whole if is_ours(whole.tensors) else checkpoint


def fitting(
    checkpoint: Checkpoint, into: nnx.Module, names: Names | None, ignore: Sequence[str]
) -> Checkpoint:
    """The checkpoint with those weights in parts put together that `into` has whole."""
    own = {name for row in rows(into, names, ignore) for name in row.torch_names}
    return folded(checkpoint, own | {n for n in checkpoint.tensors if matches(n, ignore)})


def _read(
    path: str | os.PathLike[str],
    form: Format,
    prefix: str | None,
    key: str | None,
    keep: Sequence[str] = (),
) -> Checkpoint:
    arguments.string_or_none("prefix", prefix)
    arguments.string_or_none("key", key)
    with naming(path):
        content = form.read(Path(path))
        checkpoint = unwrap(content.tree, prefix, key, keep)
    return checkpoint._replace(notes=content.notes + checkpoint.notes)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put the file's name before what its content is refused for."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
