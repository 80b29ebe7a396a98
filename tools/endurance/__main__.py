"""`python -m tools.endurance [SHARE]`: long runs, or a share of them; exit code 1 if one fails."""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tools.endurance import training, writers

ROUNDS = {".safetensors": 3000, ".pt": 3000, ".orbax": 100}
"""Ending → how often four processes write the same checkpoint."""


def main(share: float) -> int:
    """Run all, print what was done and everything that failed."""
    failures = 0
    for ending, rounds in ROUNDS.items():
        with tempfile.TemporaryDirectory() as folder:
            count = max(1, round(share * rounds))
            what = f"{count} rounds of {writers.WRITERS} writers, {ending}"
            failures += _report(what, writers.run(Path(folder), ending, count))
    steps = max(2 * training.WARM_UP, round(share * training.STEPS))
    failures += _report(f"{steps} training steps", training.run(steps))
    return int(failures > 0)


def _report(what: str, lines: Iterator[str]) -> int:
    """Print each failure as it comes, then one line; the number of failures."""
    print(f"{what}:", flush=True)
    start, failures = time.perf_counter(), 0
    for line in lines:
        failures += 1
        print(f"  {line}", flush=True)
    print(f"  {failures} failures in {time.perf_counter() - start:.0f} s", flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0))
