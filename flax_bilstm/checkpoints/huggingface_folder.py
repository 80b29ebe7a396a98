"""Hugging Face's folders: one file of weights, or an index and the shards that it lists.

https://huggingface.co/docs/transformers/big_models: the index maps each name to its file.
"""

import json
import os
from pathlib import Path
from typing import Any

from flax_bilstm.checkpoints import safetensors_file, torch_file
from flax_bilstm.checkpoints.mapped import Content
from flax_bilstm.showing import counted, shown

INDEX = ".index.json"
FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""The file to read in a folder: the first of these that exists."""
LARGEST_INDEX = 64 * 2**20  # bytes


def inside(folder: Path) -> Path | None:
    """The file of the folder to read, or None."""
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def read(path: Path) -> Content:
    """All tensors of a folder or of an index.

    Raises:
        ValueError: the index is damaged, or refers to a file outside the folder or to a tensor
            that its shard does not have.
        FileNotFoundError: a shard is missing.
    """
    file = inside(path) if path.is_dir() else path
    assert file is not None  # otherwise the format would be another
    notes = (f"read: {file.name}",) if file != path else ()
    if not file.name.endswith(INDEX):
        content = _read_file(file)
        return Content(content.tree, notes + content.notes)
    shards: dict[str, Content] = {}
    tensors = {}
    for name, shard in _weight_map(file).items():
        if shard not in shards:
            shards[shard] = _read_file(file.parent / shard)
        if name not in shards[shard].tree:
            raise ValueError(f"{shown(shard)}: expected the tensor {shown(name)}, which is missing")
        tensors[name] = shards[shard].tree[name]
    return Content(tensors, (*notes, f"read: {counted(len(shards), 'shard')}"))


def _read_file(path: Path) -> Content:
    if not os.path.isfile(path):  # also if the name is too long for a file
        place = path.parent / shown(path.name)
        raise FileNotFoundError(f"{place}: expected a shard, which the index names, found nothing.")
    return (safetensors_file if path.suffix == ".safetensors" else torch_file).read(path)


def _weight_map(index: Path) -> dict[str, str]:
    if index.stat().st_size > LARGEST_INDEX:
        raise ValueError(f"expected an index of at most {LARGEST_INDEX:,} bytes, got a larger one")
    try:
        content: Any = json.loads(index.read_bytes())
        found = content["weight_map"]
        if not all(isinstance(name, str) for name in found.values()):
            raise TypeError
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            'expected an index, JSON with names and files under "weight_map", got another or a '
            "damaged one; download it again."
        ) from error
    for shard in found.values():
        if Path(shard).name != shard:
            raise ValueError(f"expected shards beside the index, got {shown(shard)}.")
    return dict(found)
