"""Writes a state dict as torch.save does, without PyTorch, for torch.load(weights_only=True)."""

import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from flax_bilstm.checkpoints.rebuilt import DTYPES

ALIGNMENT = 64  # bytes; torch.load(mmap=True) requires it
FOLDER = "archive"
STORAGES = {dtype: f"{name}Storage" for name, dtype in DTYPES.items()}


def write(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Write the state dict as torch.save(model.state_dict(), path) would.

    Raises:
        ValueError: PyTorch has no storage for an array's dtype.
        OSError: it cannot be written.
    """
    for name, array in arrays.items():
        if array.dtype not in STORAGES:
            raise ValueError(
                f"{name}: expected a dtype of PyTorch's storages "
                f"({', '.join(str(dtype) for dtype in STORAGES)}), got {array.dtype}."
            )
    with zipfile.ZipFile(path, "w") as archive:
        _add(archive, "data.pkl", b"".join(_pickle(arrays)))
        _add(archive, "byteorder", b"little")
        for key, array in enumerate(arrays.values()):
            _add(archive, f"data/{key}", array.tobytes())
        _add(archive, "version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Write one member, its bytes aligned as by torch.save: padded by an extra field."""
    info = zipfile.ZipInfo(f"{FOLDER}/{name}")
    info.file_size = len(content)  # so that a member above 4 GiB has room for its size
    assert archive.fp is not None
    first = archive.fp.tell() + 30 + len(info.filename) + 4
    wide = 20 if info.file_size * 1.05 > zipfile.ZIP64_LIMIT else 0
    padding = -(first + wide) % ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    with archive.open(info, "w") as member:
        view = memoryview(content)
        for at in range(0, len(view), 2**24):
            member.write(view[at : at + 2**24])


def _pickle(arrays: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    """An OrderedDict of calls of torch's function that makes a tensor from a storage."""
    ordered_dict = b"ccollections\nOrderedDict\n)R"
    yield b"\x80\x02" + ordered_dict + b"("
    for key, (name, array) in enumerate(arrays.items()):
        strides = np.cumprod([1, *array.shape[:0:-1]], dtype=np.int64)[::-1][: array.ndim]
        yield _text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n("
        yield b"(" + _text("storage") + f"ctorch\n{STORAGES[array.dtype]}\n".encode()
        yield _text(str(key)) + _text("cpu") + _number(array.size) + b"tQ"
        yield _number(0) + _numbers(array.shape) + _numbers(strides.tolist())
        yield b"\x89" + ordered_dict + b"tR"  # requires_grad=False, no hooks
    yield b"u."


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _number(number: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", number)


def _numbers(numbers: Iterator[int] | tuple[int, ...] | list[int]) -> bytes:
    return b"(" + b"".join(map(_number, numbers)) + b"t"
