"""`python -m tools.accelerators`: compile everything for every target and print what it costs.

Exit code 1 if a program does not compile; the table names it, and its error follows.
"""

import sys
import time
import traceback
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flax_bilstm.recurrence import IMPLEMENTATIONS
from flax_bilstm.sharding import make_mesh
from tools.accelerators.costs import Costs, costs
from tools.accelerators.programs import BATCH, HIDDEN_DIM, INPUT_DIM, TIME, programs
from tools.accelerators.targets import targets

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
COLUMNS = {
    "target": 11,
    "dtype": 8,
    "implementation": 14,
    "program": 9,
    "GFLOP": 6,
    "MB moved": 8,
    "exchanges": 9,
    "MB arguments": 12,
    "MB temporary": 12,
    "seconds": 7,
}
"""Headings and widths. Exchanges are collective operations; temporaries are what a device's main
memory holds besides arguments and results."""


class Outcome(NamedTuple):
    """One program on one target: its costs, or its compilation error."""

    name: tuple[str, ...]
    seconds: float
    costs: Costs | None
    error: str


def compile_all() -> Iterator[Outcome]:
    """Compile every program for every target, one after another."""
    for target, devices in targets().items():
        mesh = make_mesh(devices)
        for implementation in IMPLEMENTATIONS:
            for dtype in DTYPES:
                for program in ("inference", "training"):
                    name = (target, dtype, implementation, program)
                    start, found, error = time.perf_counter(), None, ""
                    try:
                        made = programs(implementation, DTYPES[dtype], mesh)[program]
                        lowered = jax.jit(made.function).lower(*made.arguments)
                        found = costs(lowered.compile())
                    except Exception:  # any error of the compiler is shown
                        error = traceback.format_exc()
                    yield Outcome(name, time.perf_counter() - start, found, error)


def row(outcome: Outcome) -> str:
    """A line of the table."""
    if outcome.costs is None:
        figures = ["FAILED", *["-"] * 4]
    else:
        flops, accessed, exchanges, *sizes = outcome.costs
        arguments, temporaries = (f"{size / 1e6:.1f}" for size in sizes)
        moved = f"{accessed / 1e6:.0f}"
        figures = [f"{flops / 1e9:.2f}", moved, str(exchanges), arguments, temporaries]
    return line((*outcome.name, *figures, f"{outcome.seconds:.1f}"))


def line(cells: tuple[str, ...]) -> str:
    """Cells as a line of a Markdown table, aligned."""
    padded = (cell.ljust(width) for cell, width in zip(cells, COLUMNS.values(), strict=True))
    return "| " + " | ".join(padded) + " |"


def main() -> int:
    """Print the table as it grows, then the errors; 1 if there are any."""
    print(
        f"Reference network, input {INPUT_DIM}, hidden {HIDDEN_DIM}, batch {BATCH}, time {TIME}; "
        f"jax {jax.__version__}.\nCompiled, not run. Figures are for one device and one call, all "
        "steps of the loops included.\n"
    )
    print(line(tuple(COLUMNS)))
    print(line(tuple("-" * width for width in COLUMNS.values())))
    failed = []
    for outcome in compile_all():
        print(row(outcome), flush=True)
        if outcome.costs is None:
            failed.append(outcome)
    for outcome in failed:
        print(f"\n{' · '.join(outcome.name)}\n{outcome.error}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} programs did not compile.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
