"""The command `parity`: runs `parity.cli` if its dependencies are installed."""

import sys

NEEDED = {"matplotlib", "optax", "rich", "sklearn", "torch"}


def run() -> None:
    """Run the command line; a missing dependency is bad input, with one message on stderr."""
    try:
        from flax_bilstm.checkpoints.orbax_threads import ignore_late_results
        from parity.cli import main

        ignore_late_results()
        code = main()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in NEEDED:
            raise
        print(
            f"parity: the proof needs {package}, which is not installed; run pip install "
            "'flax-bilstm[parity]'.",
            file=sys.stderr,
        )
        code = 2
    sys.exit(code)
