"""Files that are there whole or not at all: written under a temporary name, then renamed."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the block ends, and is gone if it raises.

    It has `path`'s name, in a new folder beside it, on the same file system. A file that is there
    already is replaced in one step.

    Raises:
        FileNotFoundError: the folder that `path` is to be in does not exist.
        IsADirectoryError: `path` is a folder.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path}: expected the folder {path.parent} to exist, found {kind_of(path.parent)}; "
            "make it first."
        )
    if path.is_dir():
        raise IsADirectoryError(f"{path}: expected a file or nothing in its place, found a folder.")
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # some writers make private files
        temporary.replace(path)


def kind_of(path: Path) -> str:
    """What is at `path`, in words."""
    return "a folder" if path.is_dir() else "a file" if path.exists() else "nothing"


def _umask() -> int:
    mask = os.umask(0)  # there is no reading it without setting it
    os.umask(mask)
    return mask
