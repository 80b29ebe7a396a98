"""The formats of checkpoints: recognizing one by its content, and choosing one to write."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flax_bilstm.checkpoints import (
    distributed_folder,
    huggingface_folder,
    orbax_folder,
    safetensors_file,
    torch_file,
    torch_writing,
)
from flax_bilstm.checkpoints.mapped import Content
from flax_bilstm.checkpoints.replacing import kind_of


class Format(NamedTuple):
    """How one kind of checkpoint is read, including wrappers, and how a module is written."""

    title: str
    read: Callable[[Path], Content]
    write: Callable[[Mapping[str, np.ndarray], Path], None] | None


TORCH = Format("PyTorch", torch_file.read, torch_writing.write)
SAFETENSORS = Format("safetensors", safetensors_file.read, safetensors_file.write)
ORBAX = Format("Orbax", orbax_folder.read, None)
HUGGING_FACE = Format("Hugging Face", huggingface_folder.read, None)
DISTRIBUTED = Format("torch.distributed.checkpoint", distributed_folder.read, None)

FORMATS = {
    ".pt": TORCH,
    ".pth": TORCH,
    ".ckpt": TORCH,
    ".bin": TORCH,
    ".tar": TORCH,  # .pth.tar, as torchvision's and others' programs call it
    ".pkl": TORCH,
    ".safetensors": SAFETENSORS,
    ".orbax": ORBAX,
    "": ORBAX,
}
"""A name's ending, in lower case → the format to write."""

FOREIGN = {
    b"version https://git-lfs": "a Git LFS pointer; run git lfs pull",
    b"\x89HDF": "an HDF5 file, as Keras writes them",
    b"GGUF": "a GGUF file",
    b"<": "a web page or XML",
    b"\x1f\x8b": "a file packed with gzip; unpack it",
    b"\x93NUMPY": "a NumPy array",
    b"BZh": "a file packed with bzip2; unpack it",
    b"\xfd7zXZ": "a file packed with xz; unpack it",
}
"""First bytes of files that are not checkpoints → what they are."""


def detect(path: Path) -> Format:
    """The format of the checkpoint at `path`, by its content.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is not a regular file or folder, or not a checkpoint.
    """
    if path.is_dir():
        return _of_folder(path)
    if not path.is_file():
        error = ValueError if path.exists() else FileNotFoundError
        raise error(f"{path}: expected a checkpoint's file or folder, found {kind_of(path)}.")
    with path.open("rb") as file:
        head, size = file.read(32), path.stat().st_size
    # Before torch's: a safetensors header of 896 bytes begins as a pickle does, with 0x80 and 3.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size:
        return SAFETENSORS
    if head.startswith((b"PK\3\4", b"\x80")):
        return TORCH
    if path.name.endswith(huggingface_folder.INDEX):
        return HUGGING_FACE
    foreign = next((what for start, what in FOREIGN.items() if head.startswith(start)), None)
    by_name = FORMATS.get(path.suffix.lower(), ORBAX)
    if foreign or by_name is ORBAX:
        raise ValueError(
            f"{path}: expected a PyTorch, safetensors or model.safetensors.index.json file, or an "
            f"Orbax folder, got {foreign or 'a file of an unknown kind'}."
        )
    return by_name  # its error says what is damaged


def _of_folder(path: Path) -> Format:
    if (path / distributed_folder.METADATA).is_file():
        return DISTRIBUTED
    if huggingface_folder.inside(path) is not None:
        return HUGGING_FACE
    return ORBAX


def format_of(path: Path) -> Format:
    """The format to write, by a name's ending.

    Raises:
        ValueError: the ending is unknown.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(
            f"{path}: expected a name ending in one of {', '.join(filter(None, FORMATS))}, or in "
            f"none for an Orbax checkpoint directory, got {suffix}."
        )
    return FORMATS[suffix]
