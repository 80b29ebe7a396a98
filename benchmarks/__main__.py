"""`python -m benchmarks [--quick] [--readme]`: run, print, write results.json and a plot."""

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks import cells, interleave, report
from benchmarks.cells import CONTESTANTS, Cell

MEMORY_CELL = Cell(8, 8192, 64, "training")
COMPILE_TIMES = (32, 2048)


def main() -> None:
    """Run the grid, or with --readme only put an earlier run's table into the README."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small grid, under two minutes")
    parser.add_argument("--rounds", type=int, default=9, help="turns each contestant gets")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--readme", action="store_true", help="update README.md from the JSON")
    arguments = parser.parse_args()
    path = arguments.output / ("quick.json" if arguments.quick else "results.json")
    if arguments.readme:
        report.write_readme(report.load(path), Path("README.md"))
        return
    shapes = cells.QUICK_SHAPES if arguments.quick else cells.SHAPES
    hidden_sizes = cells.HIDDEN_SIZES[:1] if arguments.quick else cells.HIDDEN_SIZES
    results = measure(cells.grid(shapes, hidden_sizes), arguments.rounds, not arguments.quick)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    report.write_plot(results, path.with_suffix(".png"))
    print(report.markdown(results))
    print(f"\nWritten: {path}, {path.with_suffix('.png')}")


def measure(grid: list[Cell], rounds: int, whole: bool) -> dict[str, Any]:
    """Every cell; with `whole` also memory and compile times."""
    measured = []
    with interleave.workers(list(CONTESTANTS)) as started, Progress() as progress:
        task = progress.add_task("cells", total=len(grid))
        for cell in grid:
            progress.update(task, description=str(cell))
            measured.append(interleave.run_cell(cell, started, rounds))
            progress.advance(task)
        rate = started["PyTorch"].ask(matmul=True)["flops_per_second"]
        facts = {name: worker.facts for name, worker in started.items()}
    return {
        "schema_version": 1,
        "date": time.strftime("%Y-%m-%d"),
        "rounds": rounds,
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "processor": _processor(),
            "versions": {
                "torch": facts["PyTorch"]["torch"],
                "jax": facts["fused"]["jax"],
                "flax": facts["fused"]["flax"],
                "python": platform.python_version(),
            },
        },
        "contestants": facts,
        "matmul_flops_per_second": rate,
        "cells": measured,
        "notes": [_memory_note(), _compile_note()] if whole else [],
    }


def _memory_note() -> str:
    sizes = {n: interleave.peak_bytes(n, MEMORY_CELL) for n in ("PyTorch", "flax.nnx", "fused")}
    parts = ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in sizes.items())
    return (
        f"peak memory of {MEMORY_CELL}, each in a fresh process, less that of a tiny step: {parts}"
    )


def _compile_note() -> str:
    seconds = [
        interleave.compile_seconds("fused", Cell(32, steps, 64, "training"))
        for steps in COMPILE_TIMES
    ]
    parts = ", ".join(f"{s:.1f} s at time {t}" for s, t in zip(seconds, COMPILE_TIMES, strict=True))
    return f"building and compiling a training step of batch 32: {parts}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if os.name == "posix" else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
