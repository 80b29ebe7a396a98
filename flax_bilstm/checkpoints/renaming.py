"""Atomic renaming: to a name that must be free, or in exchange with what is there.

Linux supports both (renameat2(2)). Elsewhere a file that must be new is linked; a folder to be
replaced is first moved away, and moved back if the renaming fails.
"""

import ctypes
import errno
import os
import shutil
from pathlib import Path

NO_REPLACE, EXCHANGE = 1, 2
_AT_THE_WORKING_FOLDER = -100


def move(new: Path, path: Path, *, overwrite: bool) -> None:
    """Give `new`, a file or folder, the name `path`.

    Raises:
        FileExistsError: `path` exists, and `overwrite` is False.
        OSError: it cannot be renamed; `path` is unchanged.
    """
    if not overwrite:
        if not _rename(new, path, NO_REPLACE):
            _move_onto_nothing(new, path)
    elif not (new.is_dir() and path.is_dir()):
        new.replace(path)
    elif not _rename(new, path, EXCHANGE):  # otherwise the old folder is now in the temporary one
        _replace_folder(new, path)


def _rename(new: Path, path: Path, flags: int) -> bool:
    """Rename with flags; False if the system or the file system does not support it.

    Raises:
        OSError: it is supported, and failed.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = os.fsencode(new), os.fsencode(path)
    here = _AT_THE_WORKING_FOLDER
    if rename(here, names[0], here, names[1], flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(number, os.strerror(number), str(path))


def _move_onto_nothing(new: Path, path: Path) -> None:
    if new.is_dir():
        path.mkdir()  # fails if it exists; the rename replaces an empty folder
        new.rename(path)
    else:
        os.link(new, path)


def _replace_folder(new: Path, path: Path) -> None:
    aside = new.with_name("before")
    path.rename(aside)
    try:
        new.rename(path)
    except OSError:
        aside.rename(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)
