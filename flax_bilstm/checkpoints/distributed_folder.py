"""Folders of torch.distributed.checkpoint (FSDP): `.metadata`, and files with pieces of tensors.

The metadata is a pickle that says where each piece of each tensor is; each piece was written
by torch.save. https://docs.pytorch.org/docs/stable/distributed.checkpoint.html
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from flax_bilstm.checkpoints import torch_file
from flax_bilstm.checkpoints.mapped import Content, mapped
from flax_bilstm.checkpoints.shapes import count_of
from flax_bilstm.checkpoints.stand_ins import Bytes, DamagedError, StandIn
from flax_bilstm.showing import shown

METADATA = ".metadata"
_DAMAGED = AttributeError, LookupError, TypeError, OverflowError, RecursionError, ValueError


def read(path: Path) -> Content:
    """The saved mapping, with whole tensors.

    Raises:
        ValueError: the folder is damaged or incomplete.
    """
    try:
        return Content(_read(path))
    except _DAMAGED as error:
        in_words = isinstance(error, DamagedError)
        what = str(error) if in_words else f"its pieces cannot be read ({type(error).__name__})"
        raise ValueError(
            f"expected a folder of torch.distributed.checkpoint, got a damaged one: {what}; copy "
            "it again."
        ) from error


def _read(path: Path) -> dict[Any, Any]:
    metadata = torch_file.load(mapped(path / METADATA)).value
    described = metadata.state["state_dict_metadata"]
    places = metadata.state.get("planner_data") or {}
    pieces: dict[Any, list[tuple[Any, Any]]] = {}
    for index, stored in metadata.state["storage_data"].items():
        pieces.setdefault(index.state["fqn"], []).append((index.state, stored.state))
    files: dict[str, _File] = {}
    tree = _Branch()
    for name, tensor in described.items():
        size = tensor.state["size"] if isinstance(tensor.state, dict) else None
        loaded = [
            (index.get("offset"), _piece(path, stored, files)) for index, stored in pieces[name]
        ]
        value = loaded[0][1] if size is None else _joined(name, size, loaded)
        *keys, last = places.get(name) or (name,)
        branch = tree
        for key in keys:
            branch = branch.setdefault(key, _Branch())
        branch[last] = value
    return {key: _as_saved(value) for key, value in tree.items()}


class _Branch(dict[Any, Any]):
    """A mapping or list that was saved in pieces: its keys, or positions, are parts of paths."""


def _as_saved(value: Any) -> Any:
    """The list or mapping that a branch was: paths have text for a mapping's keys, even numbers."""
    if not isinstance(value, _Branch):
        return value
    inside: dict[Any, Any] = {key: _as_saved(each) for key, each in value.items()}
    if all(type(key) is int for key in inside) and max(inside) == len(inside) - 1:
        return [inside[position] for position in sorted(inside)]
    if "param_groups" in inside:  # an optimizer's, which numbers its parameters
        state = inside.get("state", {})  # nothing was saved if it was empty
        numbers = {key: int(key) if str(key).isdecimal() else key for key in state}
        return inside | {"state": {numbers[key]: each for key, each in state.items()}}
    return inside


class _File:
    """A file with pieces, and how many of its bytes belong to none that was read so far."""

    def __init__(self, data: Bytes):
        self.data, self.left = data, len(data)


def _piece(path: Path, stored: dict[str, Any], files: dict[str, _File]) -> Any:
    name, start, length = stored["relative_path"], stored["offset"], stored["length"]
    if name not in files:
        if Path(name).name != name or not os.path.isfile(path / name):
            raise DamagedError(f"its file {shown(name)} is missing")
        files[name] = _File(mapped(path / name))
    file = files[name]
    if not 0 <= start <= start + length <= len(file.data):
        raise DamagedError(f"its file {shown(name)} is cut off")
    file.left -= length
    if file.left < 0:
        raise DamagedError(f"its file {shown(name)} has pieces that share bytes")
    return torch_file.load(file.data, start, start + length).value


def _joined(name: str, size: tuple[int, ...], pieces: list[tuple[Any, Any]]) -> Any:
    """A tensor from its pieces: (start position of each, its array)."""
    first = pieces[0][1]
    if isinstance(first, StandIn):
        return first
    count = count_of(size)
    if len(pieces) == 1 and first.shape == tuple(size):
        return first
    misfit = DamagedError(f"the pieces of {shown(name)} do not fill its shape {shown(str(size))}")
    if sum(array.size for _, array in pieces) != count:
        raise misfit
    whole, filled = np.empty(size, first.dtype), np.zeros(size, bool)
    for offset, array in pieces:
        place = tuple(slice(o, o + n) for o, n in zip(offset, array.shape, strict=True))
        inside = min(offset, default=0) >= 0 and filled[place].shape == array.shape
        if not inside or filled[place].any() or array.dtype != first.dtype:
            raise misfit
        whole[place], filled[place] = array, True
    return whole
