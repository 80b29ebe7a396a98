"""Damaged folders of Hugging Face's: one file of weights, or an index and shards."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flax_bilstm.checkpoints import safetensors_file, torch_writing
from tools.fuzzing import folders
from tools.fuzzing.damage import ARRAYS
from tools.fuzzing.folders import Folder, made
from tools.fuzzing.values import pick

INDEX = "model.safetensors.index.json"
HALVES = {"a.safetensors": slice(None, 2), "b.safetensors": slice(2, None)}
OVERLAPPING = {"a.safetensors": slice(None, 3), "b.safetensors": slice(1, None)}


@functools.cache
def originals() -> Sequence[Folder]:
    """One file; shards of both formats, and shards that share tensors."""
    return [
        made(functools.partial(_save, None, {"model.safetensors": slice(None)})),
        made(functools.partial(_save, INDEX, HALVES)),
        made(functools.partial(_save, INDEX, OVERLAPPING)),
        made(functools.partial(_save, "pytorch_model.bin.index.json", HALVES)),
    ]


def _save(index: str | None, shards: dict[str, slice], path: Path) -> None:
    path.mkdir()
    places: dict[str, str] = {}
    for name, part in shards.items():
        arrays = dict(list(ARRAYS.items())[part])
        file = Path(name).stem if "pytorch" in str(index) else name
        (torch_writing if "pytorch" in str(index) else safetensors_file).write(arrays, path / file)
        places |= dict.fromkeys(arrays, file)
    if index is not None:
        (path / index).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def write(rng: np.random.Generator, path: Path) -> None:
    """Write a folder with damaged files."""
    folder = dict(pick(originals(), rng))
    folders.written(*folders.damaged(folder, rng), path)
