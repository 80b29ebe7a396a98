"""Memory that is freed goes back to the operating system."""

import ctypes
from functools import cache
from typing import Any

MUCH = 2**26
"""The number of bytes from which on it is worth the time."""


def give_back(freed: int) -> None:
    """Give memory that was freed back to the operating system, if it was MUCH.

    glibc keeps freed arrays for the thread that freed them. JAX and PyTorch compute in different
    threads, so that a large network would need far more than its arrays.
    """
    if freed >= MUCH and (trim := _trim()):
        trim(0)


@cache
def _trim() -> Any:
    """glibc's malloc_trim; None for another C library."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        return None
