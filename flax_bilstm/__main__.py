"""`python -m flax_bilstm` is `flax-bilstm`."""

import signal
import sys

import jax

from flax_bilstm.cli import main


def run() -> None:
    """Run the command line on the CPU, so that it waits for no accelerator and takes none.

    SIGTERM ends it as Ctrl-C does: what it was writing is cleared away.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    jax.config.update("jax_platforms", "cpu")
    sys.exit(main())


if __name__ == "__main__":
    run()
