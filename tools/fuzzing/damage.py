"""A corpus of good files, and damage to them by seed."""

import functools
import io
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flax_bilstm.checkpoints import safetensors_file, torch_writing
from tools.fuzzing.values import pick

NUMBERS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\xff\xff\xff\x7f", b"\xff" * 8)
OPCODES = b"()012BCGIJKLMNPQRSTUVX]abcdeghijlopqrstu}.\x80\x81\x85\x86\x8c\x8e\x93\x94\x95"

MANY = (
    b"\x8b\xa0\x86\1\0" + b"\xff" * 99_999 + b"\1",  # an integer of 100,000 bytes
    b"K\xff" * 100_000,  # sizes of so many axes
    b"255," * 100_000,  # the same in JSON
    b"".join(b"\x8a\x0b" + (n * (2**61 - 1)).to_bytes(11, "little") + b"K\0"
             for n in range(20_000)),  # keys of one hash
)  # fmt: skip
"""What multiplies, or compares, forever if nothing bounds it."""

ARRAYS = {
    name: np.arange(size, dtype=np.float32).reshape(shape)
    for name, size, shape in [
        ("weight_ih_l0", 8, (4, 2)),
        ("weight_hh_l0", 4, (4, 1)),
        ("bias_ih_l0", 4, (4,)),
        ("bias_hh_l0", 4, (4,)),
    ]
}
"""The state dict of an nn.LSTM(2, 1)."""


@functools.cache
def corpus() -> list[bytes]:
    """A small, good file of each format: PyTorch's two, a pickle, safetensors."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        files = []
        for write in (torch_writing.write, safetensors_file.write):
            write(ARRAYS, path)
            files.append(path.read_bytes())
    return [*files, _repacked(files[0], lambda data: data), *_pickles(ARRAYS)]


Write = Callable[[Path], Any]
"""What writes a checkpoint to a path."""


def put(content: bytes, path: Path) -> None:
    """Write a file."""
    path.write_bytes(content)


def good() -> Sequence[Write]:
    """What writes the good files."""
    return [functools.partial(put, content) for content in corpus()]


def write(rng: np.random.Generator, path: Path) -> None:
    """Write a damaged file."""
    path.write_bytes(damaged(corpus(), rng))


def _pickles(arrays: dict[str, np.ndarray]) -> list[bytes]:
    content = {"state_dict": arrays, "epoch": 3, "where": Path("run"), "loss": np.float64(0.5)}
    return [pickle.dumps(content, protocol) for protocol in (2, 4, 5)]


def damaged(originals: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """One of the files after one to four changes."""
    data = pick(originals, rng)

    def change(data: bytes) -> bytes:
        for _ in range(rng.integers(1, 5)):
            data = pick(CHANGES, rng)(data, originals, rng)
        return data

    if data.startswith(b"PK") and rng.random() < 0.7:
        return _repacked(data, change)  # otherwise only the checksum would be tested
    return change(data)


def _repacked(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """An archive with its pickle changed, and matching checksums."""
    new = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(new, "w") as file:
        for name in old.namelist():
            content = old.read(name)
            file.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return new.getvalue()


Change = Callable[[bytes, Sequence[bytes], np.random.Generator], bytes]


def _at(data: bytes, rng: np.random.Generator) -> int:
    return int(rng.integers(len(data) + 1))


def _put(data: bytes, piece: bytes, rng: np.random.Generator) -> bytes:
    at = _at(data, rng)
    return data[:at] + piece + data[at + len(piece) :]


def _flip(data: bytes, originals: Sequence[bytes], rng: np.random.Generator) -> bytes:
    return _put(data, bytes([int(rng.integers(256))]), rng)


def _number(data: bytes, originals: Sequence[bytes], rng: np.random.Generator) -> bytes:
    return _put(data, pick(NUMBERS, rng), rng)


def _opcode(data: bytes, originals: Sequence[bytes], rng: np.random.Generator) -> bytes:
    return _put(data, bytes([pick(OPCODES, rng)]), rng)


def _cut(data: bytes, originals: Sequence[bytes], rng: np.random.Generator) -> bytes:
    return data[: _at(data, rng)]


def _remove(data: bytes, originals: Sequence[bytes], rng: np.random.Generator) -> bytes:
    at = _at(data, rng)
    return data[:at] + data[at + int(rng.integers(1, 40)) :]


def _double(data: bytes, originals: Sequence[bytes], rng: np.random.Generator) -> bytes:
    at = _at(data, rng)
    return data[:at] + data[at : at + int(rng.integers(1, 200))] + data[at:]


def _splice(data: bytes, originals: Sequence[bytes], rng: np.random.Generator) -> bytes:
    other = pick(originals, rng)
    start = _at(other, rng)
    return _put(data, other[start : start + int(rng.integers(1, 100))], rng)


def _many(data: bytes, originals: Sequence[bytes], rng: np.random.Generator) -> bytes:
    at = _at(data, rng)
    return data[:at] + pick(MANY, rng) + data[at:]


CHANGES: tuple[Change, ...] = (_flip, _number, _opcode, _cut, _remove, _double, _splice, _many)
