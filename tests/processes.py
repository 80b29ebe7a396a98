"""New processes in which the slow imports are done: each is forked off one that has done them.

The imports take 3 to 5 CPU seconds, and the tests start some 30 such processes.
"""

import multiprocessing
import runpy
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import pytest

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("flax_bilstm", "optax", "orbax.checkpoint", "torch", "parity", "rich.progress"),
        *("matplotlib.figure", "sklearn.datasets", "sklearn.model_selection"),
    ]
)

PREAMBLE = """\
import os, sys
import jax
os.environ.pop("PYTHONSAFEPATH", None)
os.chdir({folder!r})
for stream, name in (sys.stdout, "stdout"), (sys.stderr, "stderr"):
    os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), stream.fileno())
# Nearly all of the time goes into compiling, and into threads that wait for one another.
os.environ |= {environment!r}
jax.config.update("jax_disable_most_optimizations", True)
if "torch" in sys.modules: sys.modules["torch"].set_num_threads(1)
"""


def start(source: str, folder: Path, environment: dict[str, str]) -> BaseProcess:
    """Run the source in `folder`; what it prints goes into the files `stdout` and `stderr` there.

    Args:
        source: Python.
        folder: where `source` is stored, as `source.py`, and runs.
        environment: what is added to it; too late for what JAX reads when it is imported.
    """
    with pytest.MonkeyPatch.context() as patch:  # the package that is tested, not the checkout
        patch.setenv("PYTHONSAFEPATH", "1")
        forkserver.ensure_running()
    script = folder / "source.py"
    script.write_text(PREAMBLE.format(folder=str(folder), environment=environment) + source)
    process = FORKS.Process(target=runpy.run_path, args=(str(script), None, "__main__"))
    process.start()
    return process


class Ended(NamedTuple):
    """A process that has ended, as of `subprocess.run`."""

    returncode: int | None
    stdout: str
    stderr: str


def run(source: str, folder: Path, environment: dict[str, str]) -> Ended:
    """The same to its end, for which it has five minutes."""
    process = start(source, folder, environment)
    process.join(300)
    process.kill()
    return Ended(process.exitcode, (folder / "stdout").read_text(), (folder / "stderr").read_text())
