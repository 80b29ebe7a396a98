"""Files mapped into memory: their bytes are read only when needed, and not copied."""

import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flax_bilstm.checkpoints.stand_ins import Bytes


class Content(NamedTuple):
    """The contents of a checkpoint, including wrappers, and notes about the reading."""

    tree: Mapping[Any, Any]
    notes: tuple[str, ...] = ()


def mapped(path: Path) -> Bytes:
    """The bytes of a regular file, read-only."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def forget(arrays: Mapping[str, np.ndarray]) -> None:
    """Give back the memory of arrays in mapped files; what is used again is read again."""
    for array in arrays.values():
        base: Any = array
        while base is not None and not isinstance(base, mmap.mmap):
            base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
        if base is not None and hasattr(mmap, "MADV_DONTNEED"):
            base.madvise(mmap.MADV_DONTNEED)
