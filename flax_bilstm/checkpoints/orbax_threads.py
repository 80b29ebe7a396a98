"""What Orbax's threads print beside the error that is raised."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def one_report() -> Iterator[None]:
    """Without the errors that Orbax's threads log, with tracebacks: the same error is raised."""

    def is_others(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR or "orbax" not in Path(record.pathname).parts

    logger = logging.getLogger("absl")
    logger.addFilter(is_others)
    try:
        yield
    finally:
        logger.removeFilter(is_others)


def ignore_late_results() -> None:
    """From now on, print nothing about arrays that are done after Orbax has raised an error.

    Orbax closes its event loop then. A thread of tensorstore that hands over a result later finds
    the loop closed, and Python prints that with a traceback. Nobody waits for that result.
    """
    as_before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            as_before(unraisable)

    sys.unraisablehook = hook
