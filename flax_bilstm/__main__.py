"""`python -m flax_bilstm` is `flax-bilstm`."""

import contextlib
import ctypes
import signal
import sys

import jax

from flax_bilstm.checkpoints.orbax_threads import ignore_late_results
from flax_bilstm.cli import main

M_MMAP_THRESHOLD = -3
"""glibc's name for the size from which memory is a mapping of its own, given back once freed."""


def run() -> None:
    """Run the command line on the CPU, so that it neither waits for an accelerator nor takes one.

    SIGTERM ends it as Ctrl-C does, and unfinished output is removed.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ignore_late_results()
    jax.config.update("jax_platforms", "cpu")
    with contextlib.suppress(OSError, AttributeError, TypeError):  # of other C libraries
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**18)
    sys.exit(main())


if __name__ == "__main__":
    run()
