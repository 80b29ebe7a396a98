"""Memory that is freed goes back to the operating system."""

import ctypes
from functools import cache
from typing import Any


def give_back() -> None:
    """Give freed memory back to the operating system.

    glibc keeps the freed arrays of each thread for that thread. JAX and PyTorch compute in
    different ones, so that a large network would need twice its memory.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    """glibc's malloc_trim; None for another C library."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        return None
