"""Runs the contestants in turn, A B C A B C …, each in a separate process."""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import AGREEMENT, Cell
from benchmarks.contestants import entrants

SAMPLE_SECONDS = 0.05
"""A turn repeats a fast cell for about this long; the turn's median counts."""
PAUSE_SECONDS = 0.03
"""Pause between turns, so that the last contestant's threads stop spinning."""
ROUNDS = (3, 9)
"""Fewest and most turns of each contestant, within the cell's time."""
SLOW_SECONDS = 2.0
"""If building and the first run took longer, one more run is enough to warm up."""


class Worker:
    """A contestant's process, which is sent JSON lines."""

    def __init__(self, name: str):
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        self.facts = self._answer()

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        assert self._process.stdin is not None
        print(json.dumps({"do": do, **request}), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"contestant {self.name!r} ended with {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def workers(names: Iterable[str]) -> Iterator[dict[str, Worker]]:
    """One worker for each contestant, all ended afterwards."""
    started: dict[str, Worker] = {}
    try:
        for name in names:
            started[name] = Worker(name)
        yield started
    finally:
        for worker in started.values():
            worker.close()


def run_cell(cell: Cell, started: dict[str, Worker], seconds: float) -> dict[str, Any]:
    """Check every contestant against PyTorch in float64, then time them in turn.

    Args:
        cell: the cell to run.
        started: the workers of all contestants that run it, and the one called "truth".
        seconds: about how long the timing may take; a slow cell still gets the fewest rounds.

    Raises:
        RuntimeError: a contestant's numbers differ from those of PyTorch in float64.
    """
    entered = entrants(cell)
    kernels, estimates = _check(cell, started, entered)
    repeats = {name: max(1, math.ceil(SAMPLE_SECONDS / t)) for name, t in estimates.items()}
    a_round = sum(repeats[name] * estimates[name] + PAUSE_SECONDS for name in entered)
    fewest, most = ROUNDS
    rounds = min(most, max(fewest, int(seconds / a_round)))
    samples: dict[str, list[float]] = {name: [] for name in entered}
    for _ in range(rounds):
        for name in entered:
            time.sleep(PAUSE_SECONDS)
            turn = started[name].ask("run", count=repeats[name])["samples"]
            samples[name].append(float(np.median(turn)))
    return {
        **cell._asdict(),
        "seconds": {name: _summary(values) for name, values in samples.items()},
        "kernels": kernels,
    }


def _check(
    cell: Cell, started: dict[str, Worker], entered: list[str]
) -> tuple[dict[str, str], dict[str, float]]:
    """Each contestant's kernel, and seconds of a warm run, after all gave PyTorch's numbers."""
    kernels, estimates = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "truth.npz")
        started["truth"].ask("prepare", cell=list(cell))
        started["truth"].ask("save", path=path)
        for name in entered:
            first = started[name].ask("prepare", cell=list(cell))["seconds"]
            answer = started[name].ask("check", path=path)
            if not answer["difference"] <= AGREEMENT:
                raise RuntimeError(
                    f"{name}, {cell}: differs from PyTorch in float64 by "
                    f"{answer['difference']:.2e} of an array's largest value; {AGREEMENT:.0e} is "
                    "let in."
                )
            kernels[name] = answer["kernel"]
            warm = 1 if first > SLOW_SECONDS else 2
            estimates[name] = started[name].ask("run", count=warm)["samples"][-1]
    return kernels, estimates


def _summary(samples: list[float]) -> dict[str, float]:
    low, median, high = np.percentile(samples, [25, 50, 75])
    return {"median": median, "quartile_1": low, "quartile_3": high, "rounds": len(samples)}


def peak_memory(name: str, cell: Cell) -> int:
    """The peak resident bytes of a process that runs one cell, minus one that runs a tiny cell."""
    sizes = []
    for run in (cell._replace(batch=1, time=2), cell):
        with workers([name]) as started:
            started[name].ask("prepare", cell=list(run))
            sizes.append(started[name].ask("peak_memory")["bytes"])
    return max(0, sizes[1] - sizes[0])


def compile_seconds(name: str, cell: Cell) -> float:
    """Seconds to build and first run a cell, minus a warm run, with everything already imported."""
    with workers([name]) as started:
        started[name].ask("prepare", cell=list(cell._replace(batch=2, time=2)))
        total = started[name].ask("prepare", cell=list(cell))["seconds"]
        return total - float(np.median(started[name].ask("run", count=3)["samples"]))
