"""The system's errors of writing or reading a checkpoint, under the name that the user chose."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from flax_bilstm.showing import shown

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a quota, and the largest size of a file: no reader fails with these."""

_NUMBER = re.compile(r"os[_ ]error\D*(\d{1,4})")


def not_written(temporary: Path, error: Exception) -> OSError:
    """The OSError for another library's error in writing `temporary`.

    Its text has the system's error number if the system is the reason.
    """
    number = _NUMBER.search(str(error))
    if number:
        return OSError(int(number[1]), os.strerror(int(number[1])), str(temporary))
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return OSError(errno.EIO, shown(first).rstrip("."), str(temporary))


@contextlib.contextmanager
def in_words(path: str | os.PathLike[str], done: str) -> Iterator[None]:
    """Say in one line which checkpoint could not be read or written (`done`), and what to do."""
    try:
        yield
    except OSError as error:
        if error.strerror is None:  # it is in words already
            raise
        what_to_do = "check the name, the permissions and the disk"
        raise _said(
            error, shown(os.fspath(path)), done, f"{error.strerror}; {what_to_do}"
        ) from error


@contextlib.contextmanager
def naming_target(target: Path, temporary: str) -> Iterator[None]:
    """Put the target's name before the reason why it cannot be written.

    These are the errors of `NO_ROOM`, and those of files whose path contains `temporary`.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM and temporary not in str(error.filename):
            raise
        raise _said(error, str(target), "written", error.strerror) from error


def _said(error: OSError, path: str, done: str, reason: str | None) -> OSError:
    """The same error in words, so without its system's reason and file beside them."""
    said = type(error)(f"{path}: could not be {done}: {reason}.")
    said.errno = error.errno
    return said
