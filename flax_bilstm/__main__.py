"""`python -m flax_bilstm` is `flax-bilstm`."""

import signal
import sys

import jax

from flax_bilstm.cli import main


def run() -> None:
    """Run the command line on the CPU, so that it neither waits for an accelerator nor takes one.

    SIGTERM ends it as Ctrl-C does, and unfinished output is removed.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    jax.config.update("jax_platforms", "cpu")
    sys.exit(main())


if __name__ == "__main__":
    run()
