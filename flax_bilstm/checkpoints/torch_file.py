"""PyTorch's own files (torch.save), read without PyTorch.

A file is a zip archive of one pickle, data.pkl, and one member for each storage; before PyTorch
1.6 it was a series of pickles followed by the storages. Pickles are read as data: see `pickled`.
"""

import functools
import struct
from pathlib import Path
from typing import Any

import numpy as np

from flax_bilstm.checkpoints import archive, pickled, rebuilt
from flax_bilstm.checkpoints.mapped import Content, mapped
from flax_bilstm.checkpoints.pickle_machine import Call, Limits
from flax_bilstm.checkpoints.rebuilt import Budget, Storage
from flax_bilstm.checkpoints.stand_ins import Bytes, DamagedError, StandIn
from flax_bilstm.showing import counted, listed, shown

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle in a file of the old format."""

_SAVE_A_STATE_DICT = (
    "In the PyTorch program that can open it, run torch.save(model.state_dict(), path), and "
    "convert that file."
)


def read(path: Path) -> Content:
    """The contents of the file: a state dict, or a training checkpoint that contains one.

    Raises:
        ValueError: the file has no mapping, is a whole pickled model or TorchScript, or is damaged.
    """
    try:
        found = load(mapped(path))
    except DamagedError as error:
        raise ValueError(
            "expected a file written by torch.save, got another or a damaged one: "
            f"{error}. {_SAVE_A_STATE_DICT}"
        ) from error
    if is_module(found.value):
        raise ValueError(
            f"expected a state dict, got a whole pickled model, {shown(found.value.name)}, whose "
            f"code would have to run. Nothing in it was executed. {_SAVE_A_STATE_DICT}"
        )
    if not isinstance(found.value, dict):
        raise ValueError(
            "expected a state dict (a mapping from names to tensors), got "
            f"{_one(found.value)}. {_SAVE_A_STATE_DICT}"
        )
    if isinstance(found.value, StandIn) and not found.value:
        raise ValueError(
            f"expected a state dict, got {shown(found.value.name)}, which could run code as it is "
            f"loaded. Nothing in it was executed. {_SAVE_A_STATE_DICT}"
        )
    names = listed([shown(name) for name in found.skipped])
    notes = [f"not built: {counted(sum(found.skipped.values()), 'object')} ({names})"]
    return Content(found.value, tuple(notes) if found.skipped else ())


def load(
    data: Bytes, start: int = 0, end: int = -1, *, inside: Limits | None = None
) -> pickled.Result:
    """The object that torch.save wrote to data[start:end], or a plain pickle.

    `inside`: what is left to it inside another pickle; it must not contain a further one.

    Raises:
        DamagedError: it is neither.
    """
    end = len(data) if end < 0 else end
    limits = inside or Limits()
    call = _caller(Budget(end - start, limits), inside is not None)
    if data[start : start + 4] == b"PK\3\4":
        return _load_archive(data, start, end, call, limits)
    return _load_pickles(data, start, end, call, limits)


def is_module(value: Any) -> bool:
    """Whether a value is a stand-in for an nn.Module."""
    state = value.state if isinstance(value, StandIn) else None
    return isinstance(state, dict) and "_parameters" in state


def _one(value: Any) -> str:
    """A value that is no mapping, in words."""
    if isinstance(value, np.ndarray):
        return f"one tensor of shape {value.shape}, without a name"
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _load_archive(data: Bytes, start: int, end: int, call: Call, limits: Limits) -> pickled.Result:
    members = archive.members(data, start, end)
    if "constants.pkl" in members or any(name.startswith("code/") for name in members):
        raise DamagedError("it holds a TorchScript program, which is code; nothing was executed")
    if "data.pkl" not in members:
        raise DamagedError("it is a zip archive without a data.pkl")
    order = members.get("byteorder")
    if order is not None and data[order.start : order.end] != b"little":
        raise DamagedError("its numbers are big-endian")
    view = memoryview(data)

    @functools.cache
    def storage(key: str) -> Any:
        member = members.get(f"data/{key}")
        if member is None:
            raise DamagedError(f"its storage {shown(key)} is missing")
        archive.checked(data, member)
        return view[member.start : member.end]

    def persistent(identity: Any) -> Any:
        _, kind, key, _, count, *_ = identity
        return _storage(kind, storage(str(key)), count)

    pickle = members["data.pkl"]
    archive.checked(data, pickle)
    return pickled.load(bytes(view[pickle.start : pickle.end]), call, persistent, limits)


def _load_pickles(data: Bytes, start: int, end: int, call: Call, limits: Limits) -> pickled.Result:
    """A file of the old format, or one plain pickle."""
    counts: dict[str, int] = {}

    def note(identity: Any) -> Any:
        if identity[0] == "module":  # a class with its source code
            return identity[1]
        _, kind, key, *_ = identity
        counts[str(key)] = _itemsize(kind)
        return StandIn("a storage")

    def skip(name: str, arguments: tuple[Any, ...]) -> Any:
        return StandIn(name, arguments)

    first = pickled.load(data, call, note, limits, start, end)
    if not isinstance(first.value, int) or first.value != LEGACY_MAGIC:
        return first
    position = first.end
    for _ in range(2):  # the protocol's number, and the sizes of C's types
        position = pickled.load(data, skip, note, limits, position, end).end
    after = pickled.load(data, skip, note, limits, position, end).end
    keys = pickled.load(data, skip, note, limits, after, end)
    view, at = memoryview(data), keys.end
    storages: dict[str, Any] = {}
    for key in keys.value:
        (count,) = struct.unpack("<q", data[at : at + 8])
        size = count * counts.get(str(key), 0)
        if not 0 <= size <= end - at - 8:
            raise DamagedError(f"its storage {shown(key)} is cut off")
        storages[str(key)] = view[at + 8 : at + 8 + size]
        at += 8 + size

    def persistent(identity: Any) -> Any:
        if identity[0] == "module":
            return identity[1]
        _, kind, key, _, count, part = identity
        if part is not None or str(key) not in storages:
            return StandIn("a part of a storage")
        return _storage(kind, storages[str(key)], count)

    return pickled.load(data, call, persistent, limits, position, end)


def _caller(budget: Budget, inside: bool) -> Call:
    def call(name: str, arguments: tuple[Any, ...]) -> Any:
        if name == "torch.storage._load_from_bytes" and not inside:
            budget.take(len(arguments[0]))  # how a plain pickle stores a tensor
            return load(arguments[0], inside=budget.limits).value
        return rebuilt.call(name, arguments, budget)

    return call


def _itemsize(kind: Any) -> int:
    dtype = rebuilt.STORAGES.get(kind.name)
    return 1 if dtype is None else dtype.itemsize


def _storage(kind: Any, data: Any, count: Any) -> Any:
    dtype = rebuilt.STORAGES.get(kind.name)
    if dtype is None and kind.name not in rebuilt.UNTYPED:
        return StandIn(kind.name)
    if type(count) is not int or count * _itemsize(kind) > len(data):
        raise DamagedError(f"a storage of {shown(count)} elements has only {len(data)} bytes")
    return Storage(data, dtype)
