"""Runs the contestants in turn, A B C A B C …, each in a process of its own."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks.cells import CONTESTANTS, Cell, Contestant, enters
from benchmarks.contestants import build_torch

SAMPLE_SECONDS = 0.1
"""A turn repeats a fast cell until it has taken about this long, and counts the turn's median."""
PAUSE_SECONDS = 0.03
"""Between turns, for the last contestant's threads to stop spinning."""
AGREEMENT = 1e-4
"""Largest difference from PyTorch in float64, relative to the largest value, to be let in."""


class Worker:
    """A contestant's process, spoken to in JSON lines."""

    def __init__(self, name: str):
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "")},
        )
        self.facts = self._answer()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        assert self._process.stdin is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
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
def workers(names: list[str]) -> Iterator[dict[str, Worker]]:
    """One worker for each contestant, all ended afterwards."""
    started = {name: Worker(name) for name in names}
    try:
        yield started
    finally:
        for worker in started.values():
            worker.close()


def run_cell(cell: Cell, started: dict[str, Worker], rounds: int) -> dict[str, Any]:
    """Check every contestant against PyTorch in float64, then time them in turn."""
    entered = [name for name in started if enters(CONTESTANTS[name], cell)]
    truth = np.asarray(build_torch(cell, Contestant("torch"), dtype="float64")()).ravel()
    first: dict[str, float] = {}
    repeats: dict[str, int] = {}
    for name in entered:
        answer = started[name].ask(cell=list(cell))
        first[name] = answer["seconds"]
        error = float(np.max(np.abs(np.asarray(answer["result"]) - truth)) / np.max(np.abs(truth)))
        if not error <= AGREEMENT:
            raise RuntimeError(f"{name}, {cell}: differs from PyTorch in float64 by {error:.2e}")
        warm = started[name].ask(runs=2)["samples"][-1]
        repeats[name] = max(1, math.ceil(SAMPLE_SECONDS / max(warm, 1e-6)))
    samples: dict[str, list[float]] = {name: [] for name in entered}
    for _ in range(rounds):
        for name in entered:
            time.sleep(PAUSE_SECONDS)
            samples[name].append(float(np.median(started[name].ask(runs=repeats[name])["samples"])))
    return {
        **cell._asdict(),
        "seconds": {name: _summary(values) for name, values in samples.items()},
        "first_run_seconds": first,
    }


def _summary(samples: list[float]) -> dict[str, float]:
    low, median, high = np.percentile(samples, [25, 50, 75])
    return {"median": median, "quartile_1": low, "quartile_3": high, "rounds": len(samples)}


def peak_bytes(name: str, cell: Cell) -> int:
    """The peak resident memory of a fresh process that runs one cell, less one that runs none."""
    sizes = []
    small = Cell(1, 2, cell.hidden_dim, cell.mode)
    for run in (small, cell):
        with workers([name]) as started:
            started[name].ask(cell=list(run))
            sizes.append(started[name].ask(memory=True)["peak_bytes"])
    return max(0, sizes[1] - sizes[0])


def compile_seconds(name: str, cell: Cell) -> float:
    """Seconds to build and first run a cell, everything imported and warm before."""
    with workers([name]) as started:
        started[name].ask(cell=[2, 2, cell.hidden_dim, cell.mode])
        total = started[name].ask(cell=list(cell))["seconds"]
        return total - float(np.median(started[name].ask(runs=3)["samples"]))
