"""Memory that is no longer used, given back to the operating system."""

import contextlib
import ctypes
import gc


def give_back() -> None:
    """Give back what reference cycles and the C library keep.

    glibc keeps what Orbax's threads have freed in small pieces: up to the size of the tensors.
    """
    gc.collect()
    gc.collect(0)  # JAX gives memory back at the collection after the one that deleted it
    with contextlib.suppress(OSError, AttributeError, TypeError):  # of other C libraries
        ctypes.CDLL(None).malloc_trim(0)
