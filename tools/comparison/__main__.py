"""`python -m tools.comparison [--write]`: check, or write, the table in docs/comparison.md.

Every entry is the outcome of one of the probes on one of the libraries. Exit code 1 where the table
no longer holds. docs/comparison.md says what to install.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import jax

from tools.comparison.libraries import LIBRARIES
from tools.comparison.probes import PROBES, entry

DOCUMENT = Path(__file__).parents[2] / "docs" / "comparison.md"
START, END = "<!-- measured -->\n", "<!-- /measured -->\n"


def measure(names: Iterable[str]) -> list[list[str]]:
    """The table's rows, the header first, for these libraries."""
    libraries = {name: LIBRARIES[name] for name in names}
    rows = [["", *(f"{name} {library.version}" for name, library in libraries.items())]]
    with (
        jax.enable_x64(True),
        jax.default_matmul_precision("highest"),
        jax.numpy_dtype_promotion("standard"),  # the users' default
        jax.numpy_rank_promotion("allow"),
    ):
        for title, probe in PROBES.items():
            rows.append([title, *(entry(probe, library) for library in libraries.values())])
    return rows


def markdown(rows: list[list[str]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| " + " | ".join(row) + " |\n" for row in rows]
    return lines[0] + "|" + "---|" * len(rows[0]) + "\n" + "".join(lines[1:])


def written() -> list[list[str]]:
    """The rows of the table in the document."""
    table = DOCUMENT.read_text().partition(START)[2].partition(END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [rows[0], *rows[2:]]


def main() -> int:
    """Check or write the table."""
    parser = argparse.ArgumentParser(prog="python -m tools.comparison", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table instead")
    arguments = parser.parse_args()
    rows = measure(LIBRARIES)
    if arguments.write:
        before, _, rest = DOCUMENT.read_text().partition(START)
        DOCUMENT.write_text(before + START + markdown(rows) + END + rest.partition(END)[2])
        return 0
    differing = [pair for pair in zip(rows, written(), strict=True) if pair[0] != pair[1]]
    for measured, said in differing:
        print(f"measured: {measured}\nwritten:  {said}")
    return bool(differing)


if __name__ == "__main__":
    sys.exit(main())
