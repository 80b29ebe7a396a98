"""Files that are there whole or not at all: written under a temporary name, then renamed."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

ORBAX_MARKER = "_CHECKPOINT_METADATA"
"""The file that Orbax puts into every checkpoint's folder when it is complete."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, keep: bool = True) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the block ends, and is gone if it raises.

    It has `path`'s name, in a new folder beside it, on the same file system. A file that is there
    already is replaced in one step; a folder is moved away first, and back if that fails. Without
    `keep` nothing becomes `path`: a rehearsal.

    Raises:
        FileNotFoundError: the folder that `path` is to be in does not exist.
        ValueError: `path` is a folder that is no checkpoint, or a file is written where a folder
            is, or the other way round.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path}: expected the folder {path.parent} to exist, found {kind_of(path.parent)}; "
            "make it first."
        )
    if path.is_dir() and not (path / ORBAX_MARKER).is_file():
        raise ValueError(
            f"{path}: expected a checkpoint or nothing there, found a folder of other things, "
            "which will not be replaced; choose another name."
        )
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        if path.exists() and path.is_dir() != temporary.is_dir():
            raise ValueError(
                f"{path}: expected {kind_of(temporary)} or nothing there, found {kind_of(path)}."
            )
        if not keep:
            return
        if temporary.is_dir():
            _replace_folder(temporary, path, aside=Path(folder) / "before")
        else:
            temporary.chmod(0o666 & ~_umask())  # some writers make private files
            temporary.replace(path)


def _replace_folder(new: Path, path: Path, aside: Path) -> None:
    if not path.exists():
        new.rename(path)
        return
    path.rename(aside)
    try:
        new.rename(path)
    except OSError:
        aside.rename(path)
        raise


def kind_of(path: Path) -> str:
    """What is at `path`, in words."""
    return "a folder" if path.is_dir() else "a file" if path.exists() else "nothing"


def _umask() -> int:
    mask = os.umask(0)  # there is no reading it without setting it
    os.umask(mask)
    return mask
