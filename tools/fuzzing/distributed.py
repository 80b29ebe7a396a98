"""Damaged folders of torch.distributed.checkpoint, which only PyTorch can write."""

import functools
import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flax_bilstm.conversion.algorithms import ALGORITHMS
from tools.fuzzing import folders, optimizers
from tools.fuzzing.damage import ARRAYS
from tools.fuzzing.folders import Folder, made
from tools.fuzzing.values import JSON, PICKLED, changed, pick


@functools.cache
def originals() -> Sequence[Folder]:
    """Weights alone, with an optimizer, with a flat one, and a tensor in two pieces."""
    import torch
    from torch.distributed import checkpoint

    weights = {name: torch.tensor(array) for name, array in ARRAYS.items()}
    state = optimizers.state(ALGORITHMS[0], named=False, groups=1)
    moments = {
        number: {name: torch.tensor(value) for name, value in each.items()}
        for number, each in state["state"].items()
    }
    (group,) = state["param_groups"]
    options = {name: value for name, value in group.items() if name != "params"}
    flat = {
        f"{part}.{name}.{field}": value
        for number, name in enumerate(ARRAYS)
        for part, fields in {"state": moments[number], "param_groups": options}.items()
        for field, value in fields.items()
    }

    def save(content: dict[str, Any], path: Path) -> None:
        checkpoint.state_dict_saver.save({"model": weights, **content}, checkpoint_id=path)

    contents: list[dict[str, Any]] = [
        {"epoch": 3},
        {"optim": {**state, "state": moments}},
        {"optim": flat},
    ]
    written = [made(functools.partial(save, content)) for content in contents]
    return [*written, _in_pieces(written[0])]


def _in_pieces(folder: Folder) -> Folder:
    """The folder with its first weight in two pieces, as of two processes."""
    import torch
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

    metadata = pickle.loads(folder[".metadata"])
    (old,) = [index for index in metadata.storage_data if index.fqn == "model.weight_ih_l0"]
    stored = metadata.storage_data.pop(old)
    chunks, pieces = [], b""
    for row in (0, 2):
        written = io.BytesIO()
        torch.save(torch.ones(2, 2), written)
        offset, size = torch.Size([row, 0]), torch.Size([2, 2])
        place = type(stored)("pieces.distcp", len(pieces), len(written.getvalue()))
        metadata.storage_data[MetadataIndex(old.fqn, offset)] = place
        chunks.append(ChunkStorageMetadata(offset, size))
        pieces += written.getvalue()
    metadata.state_dict_metadata[old.fqn].chunks = chunks
    return folder | {".metadata": pickle.dumps(metadata), "pieces.distcp": pieces}


def write(rng: np.random.Generator, path: Path) -> None:
    """Write a folder whose metadata is changed, or whose files are damaged."""
    folder = dict(pick(originals(), rng))
    if rng.random() < 0.6:
        tree = changed(pickle.loads(folder[".metadata"]), rng, JSON + PICKLED)
        folders.written(folder | {".metadata": pickle.dumps(tree)}, {}, path)
    else:
        folders.written(*folders.damaged(folder, rng), path)
