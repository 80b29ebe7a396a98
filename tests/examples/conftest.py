"""Each example is run as its reader runs it: a script in a new process."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))  # as for a script that is run from there

SMALL = ("--hidden-dim", "8", "--epochs", "5")
"""Seconds instead of a minute; the validation loss falls in each of these epochs."""


@pytest.fixture(scope="session")
def start(tmp_path_factory, quick_environment) -> Callable[..., subprocess.Popen]:
    """(script, output, *options) → the process."""
    environment = quick_environment | {  # compiled once for all of them
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def start(script: str, output: Path, *options: str) -> subprocess.Popen:
        command = [sys.executable, str(EXAMPLES / script), "--output", str(output)]
        return subprocess.Popen(
            [*command, *SMALL, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )

    return start


@pytest.fixture(scope="session")
def run(start) -> Callable[..., str]:
    """The same to its end: what the script printed."""

    def run(script: str, output: Path, *options: str) -> str:
        process = start(script, output, *options)
        printed, errors = process.communicate()
        assert process.returncode == 0, errors
        return printed

    return run
