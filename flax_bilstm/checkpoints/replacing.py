"""Atomic writing of files and folders, which is safe when the disk is full or the power fails.

They are written under a temporary name in the same folder, flushed to disk, and renamed. A
program that is killed leaves a folder whose lock is free, or an old one without a lock; the next
program that writes there removes it.
"""

import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from flax_bilstm.checkpoints import renaming
from flax_bilstm.checkpoints.system_errors import naming_target

ORBAX_MARKER = "_CHECKPOINT_METADATA"
"""The file that Orbax puts into every complete checkpoint folder."""

TEMPORARY = ".flax-bilstm-"
"""Prefix of temporary folders: short, since names may have at most 255 bytes."""

LOCK, NEW = "lock", "new"

LOCKING_SECONDS = 60
"""After this time a temporary folder that has no lock yet belongs to a killed program."""


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str], *, keep: bool = True, overwrite: bool = True
) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the block ends, or is removed if it raises.

    It is in a new folder beside `path`, on the same file system. An existing file or folder is
    replaced atomically and keeps its permissions; for a symbolic link its target is replaced.
    Without `keep` it is a rehearsal: the result is removed.

    Raises:
        FileNotFoundError: the parent folder of `path` does not exist.
        ValueError: `path` exists (perhaps created meanwhile) and must not be overwritten; is a
            folder but not a checkpoint, a device or the like; or a file would replace a folder, or
            a folder a file.
        OSError: the disk is full, or the folder cannot be written to; the message begins with
            `path`. Nothing has changed.
    """
    shown = Path(path)
    path = _checked(shown, overwrite)
    _clear(path.parent)
    with naming_target(shown, TEMPORARY), _locked_folder(path.parent) as folder:
        temporary = folder / NEW
        yield temporary
        if path.exists() and path.is_dir() != temporary.is_dir():
            raise ValueError(
                f"{shown}: expected {kind_of(temporary)} or nothing there, found {kind_of(path)}."
            )
        if not keep:
            return
        if not temporary.is_dir():
            temporary.chmod(_permissions(path, folder))  # some writers create private files
        _to_disk(temporary)
        try:
            renaming.move(temporary, path, overwrite=overwrite)
        except FileExistsError:
            raise ValueError(
                f"{shown}: exists already, written by another program in the meantime; pass "
                "--overwrite to replace it."
            ) from None
        _to_disk(path.parent, inside=False)


def _checked(path: Path, overwrite: bool) -> Path:
    """The path to write to, after following links, if a checkpoint may be written there."""
    if os.path.lexists(path) and not overwrite:
        raise ValueError(f"{path}: exists already; pass --overwrite to replace it.")
    try:
        place = path.resolve()
    except (OSError, RuntimeError) as error:  # circular links
        raise ValueError(
            f"{path}: expected a place for a checkpoint, found a loop of symbolic links."
        ) from error
    if not place.parent.is_dir():
        raise FileNotFoundError(
            f"{path}: expected the folder {place.parent} to exist, found {kind_of(place.parent)}; "
            "make it first."
        )
    if place.is_dir() and not (place / ORBAX_MARKER).is_file():
        raise ValueError(
            f"{path}: expected a checkpoint or nothing there, found a folder of other things, "
            "which will not be replaced; choose another name."
        )
    if place.exists() and not place.is_dir() and not place.is_file():
        raise ValueError(
            f"{path}: expected a checkpoint or nothing there, found {kind_of(place)}, which will "
            "not be replaced; choose another name."
        )
    return place


@contextlib.contextmanager
def _locked_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, locked as long as this process uses it."""
    folder = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=parent))
    try:
        unlocked = folder / "unlocked"
        with unlocked.open("w") as lock:
            _lock(lock.fileno())
            unlocked.rename(folder / LOCK)  # now other processes may see it
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lock(file: int) -> bool:
    """Take a lock that is released when its process ends; False if another process has it."""
    try:
        import fcntl
    except ImportError:  # Windows: the folders of killed processes stay
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _clear(parent: Path) -> None:
    """Remove the folders of killed processes in `parent`."""
    for folder in parent.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if not _in_use(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _in_use(folder: Path) -> bool:
    """Whether the process that made the temporary folder may still be running."""
    try:
        with (folder / LOCK).open() as lock:
            return not _lock(lock.fileno())
    except FileNotFoundError:
        return time.time() - folder.stat().st_mtime < LOCKING_SECONDS


def _permissions(path: Path, folder: Path) -> int:
    """The permissions of the replaced file, or those of a new file."""
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    probe = folder / "probe"  # reading the umask would change it for all threads
    os.close(os.open(probe, os.O_CREAT | os.O_WRONLY, 0o666))
    return stat.S_IMODE(probe.stat().st_mode)


def _to_disk(path: Path, *, inside: bool = True) -> None:
    """Flush a file, or a folder with everything inside, to disk."""
    for parent, _, files in os.walk(path) if inside else []:
        for name in [*files, "."]:
            _sync(Path(parent) / name)
    _sync(path)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def kind_of(path: Path) -> str:
    """The kind of file or folder at `path`, in words."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return "a symbolic link that leads nowhere" if path.is_symlink() else "nothing"
    return "a folder" if stat.S_ISDIR(mode) else KINDS.get(stat.S_IFMT(mode), "a file")
