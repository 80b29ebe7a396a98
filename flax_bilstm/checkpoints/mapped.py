"""Files mapped into memory: their bytes are read only when needed, and not copied."""

import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
