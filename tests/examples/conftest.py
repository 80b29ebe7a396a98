"""Each example is run as its reader runs it: a script in a new process."""

import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import pytest

from .. import processes

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))  # as for a script that is run from there

SMALL = ("--hidden-dim", "8", "--epochs", "5")
"""Seconds instead of a minute; the validation loss falls in each of these epochs."""


PROGRAM = """\
import runpy
sys.path.insert(0, {examples!r})
sys.argv[:] = {command!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Script(NamedTuple):
    """A script that runs, and the folder with the files that it prints to."""

    process: BaseProcess
    folder: Path


@pytest.fixture(scope="session")
def start(tmp_path_factory, quick_environment) -> Callable[..., Script]:
    """(script, output, *options) → the script, started."""

    def start(script: str, output: Path, *options: str) -> Script:
        command = [str(EXAMPLES / script), "--output", str(output), *SMALL, *options]
        program = PROGRAM.format(examples=str(EXAMPLES), command=command)
        folder = tmp_path_factory.mktemp("process")
        return Script(processes.start(program, folder, quick_environment), folder)

    return start


@pytest.fixture(scope="session")
def run(start) -> Callable[..., str]:
    """The same to its end: what the script printed."""

    def run(script: str, output: Path, *options: str) -> str:
        process, folder = start(script, output, *options)
        process.join()
        assert process.exitcode == 0, (folder / "stderr").read_text()
        return (folder / "stdout").read_text()

    return run
