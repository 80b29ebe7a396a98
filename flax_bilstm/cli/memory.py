"""Memory that is no longer used, given back to the operating system."""

import contextlib
import ctypes
import gc

MUCH = 2**23
"""The number of bytes from which on giving back is worth its time, a tenth of a second."""


def give_back(freed: int) -> None:
    """Give back what reference cycles and the C library keep of so many bytes, if they are MUCH."""
    if freed >= MUCH:
        gc.collect()
        gc.collect(0)  # JAX gives memory back at the collection after the one that deleted it
        trim()


def trim() -> None:
    """Give back what glibc keeps of freed memory; other C libraries have no such function.

    It keeps freed arrays for the thread that freed them, and what Orbax's threads have freed in
    small pieces: up to the size of the tensors.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
