"""Printing that cannot make a command fail, and escapes names from files."""

import os
import sys
from typing import Any

from flax_bilstm.showing import escaped

LONGEST_LINE = 2_000
"""Most characters printed of one line of an error: a path may have 4,096."""


def write(text: str, stream: Any = None) -> bool:
    """Print `text`, escaped line by line; False if that failed.

    If the reader has closed the pipe, as `head` does, it has read all that it wanted. If standard
    output is full, standard error says so, if it can.
    """
    stream = stream or sys.stdout
    if stream is None:  # closed before the start: there is no reader
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
    """Prevents an error from what is left in the buffer when the program ends."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # not a real file, as in a test
        return
