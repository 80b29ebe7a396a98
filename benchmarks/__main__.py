"""`python -m benchmarks [--quick] [--publish]`: time all cells, print tables, write the JSON."""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks import cells, interleave, machine
from benchmarks.cells import Cell
from benchmarks.contestants import OURS, entrants
from benchmarks.report import publish, tables

SECONDS_PER_CELL = 3.0
QUICK_SECONDS_PER_CELL = 0.5
MEMORY_CELL = Cell("network", "training", 64, 8, 8192)
COMPILED = [Cell("network", "training", 64, 32, steps) for steps in (32, 2048)]


def main() -> int:
    """Measure everything, or with --publish write an earlier run into README.md and docs/."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few cells, under two minutes")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--publish", action="store_true", help="only update README.md and docs/")
    arguments = parser.parse_args()
    path = arguments.output / ("quick.json" if arguments.quick else "results.json")
    if arguments.publish:
        publish.publish(json.loads(path.read_text()), Path())
        return 0
    results = measure(arguments.quick)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(tables.everything(results))
    print(f"\nWritten: {path}")
    return 0


def measure(quick: bool) -> dict[str, Any]:
    """Every cell, then the measurements that do not belong to one cell."""
    grid = cells.quick() if quick else [*cells.layers(), *cells.networks()]
    seconds = QUICK_SECONDS_PER_CELL if quick else SECONDS_PER_CELL
    busy = _how_busy()
    names = dict.fromkeys(name for cell in grid for name in entrants(cell))
    measured = []
    with interleave.workers([*names, "truth"]) as started, Progress() as progress:
        task = progress.add_task("cells", total=len(grid))
        rates = [_matmul_rate(started)]
        for cell in grid:
            progress.update(task, description=str(cell))
            measured.append(interleave.run_cell(cell, started, seconds))
            progress.advance(task)
        rates.append(_matmul_rate(started))
        facts = {name: worker.facts for name, worker in started.items()}
    return {
        "schema_version": 2,
        "date": time.strftime("%Y-%m-%d"),
        "machine": {**machine.facts(), "busy": busy},
        "contestants": facts,
        "matmul_flops_per_second": max(rates),
        "cells": measured,
        **({} if quick else {"beside": _beside()}),
    }


def _matmul_rate(started: dict[str, interleave.Worker]) -> float:
    return started["PyTorch"].ask("matmul_rate")["flops_per_second"]


def _beside() -> dict[str, Any]:
    """The measurements besides the cells: dispatch, memory and compile time."""
    with interleave.workers([OURS]) as started:
        dispatch = started[OURS].ask("dispatch")["seconds"]
    return {
        "dispatch_seconds": dispatch,
        "memory_cell": MEMORY_CELL._asdict(),
        "peak_bytes": {n: interleave.peak_memory(n, MEMORY_CELL) for n in (OURS, "PyTorch")},
        "compile_seconds": [
            {**cell._asdict(), "seconds": interleave.compile_seconds(OURS, cell)}
            for cell in COMPILED
        ],
    }


def _how_busy() -> float | None:
    """How busy other programs keep the machine, with a warning if it is too busy for timings."""
    share = machine.busy()
    if math.isnan(share):
        return None
    if share > machine.QUIET:
        print(
            f"This machine is busy for {share:.0%} of its time with something else "
            f"(quiet: {machine.QUIET:.0%}): the figures will not be those of a quiet one.",
            file=sys.stderr,
        )
    return share


if __name__ == "__main__":
    sys.exit(main())
