"""Printing that cannot fail a command, and that a name from a file cannot take over."""

import os
import sys
from typing import Any

from flax_bilstm.checkpoints.showing import escaped

LONGEST_LINE = 2_000
"""Characters of a line of an error that are printed: a path may have 4,096, and that is no news."""


def write(text: str, stream: Any = None) -> bool:
    """Print `text`, escaped line by line; False where it could not be.

    A reader that has gone away, as `head` does, has read all that it wanted. Where standard output
    is full, standard error says so, if it can.
    """
    stream = stream or sys.stdout
    if stream is None:  # closed before we began: nobody is listening
        return True
    lines = [escaped(line) for line in text.split("\n")]
    if stream is sys.stderr:
        lines = [line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}…" for line in lines]
    encoding = stream.encoding or "utf-8"
    safe = "\n".join(lines).encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(safe, file=stream, flush=True)
    except BrokenPipeError:
        _to_nowhere(stream)
    except (OSError, ValueError) as error:  # full, or closed
        _to_nowhere(stream)
        if stream is not sys.stderr:
            write(f"flax-bilstm: the report could not be printed: {error}", sys.stderr)
        return False
    return True


def _to_nowhere(stream: Any) -> None:
    """So that what is left in the buffer is no error when the program ends."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # no real file is behind it, as in a test
        return
