"""`python -m tools.fuzzing [CASES]`: read so many damaged files; exit code 1 if one ends badly."""

import collections
import functools
import logging
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from tools.fuzzing.damage import Write
from tools.fuzzing.judge import Command, outcome
from tools.fuzzing.kinds import KINDS, Kind

CASES = 30_000


def tried(write: Write, folder: Path, *commands: Command) -> str:
    """The outcome of the checkpoint that `write` makes."""
    path = folder / "model"
    write(path)
    try:
        return outcome(path, *commands)
    finally:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def damaged(kind: Kind, seed: int) -> Write:
    """What makes the damaged checkpoint of a seed."""
    return functools.partial(kind.write, np.random.default_rng(seed))


def run(kind: Kind, cases: int, *commands: Command) -> bool:
    """Try so many cases of a kind, print the number of each outcome, and every seed that failed.

    With `commands`, these are tried, in place of the kind's.
    """
    ends: collections.Counter[str] = collections.Counter()
    often = commands or kind.commands
    every = commands or (*kind.commands, *kind.seldom)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, write in enumerate(kind.good()):
            tried(write, folder, *every)  # imports what is needed
            if (ended := tried(write, folder, *every)) != "read":
                print(f"{kind.title}, good one {number}: {ended}")
                ends[ended] += 1
        for seed in range(cases):
            chosen = every if seed % 20 == 0 else often
            ended = tried(damaged(kind, seed), folder, *chosen)
            ends[ended.partition(":")[0]] += 1
            if ended not in ("read", "refused"):
                print(f"{kind.title}, seed {seed}: {ended[:2000]}", flush=True)
            if sys.stderr.isatty() and seed % 500 == 499:
                print(f"{seed + 1} of {cases}", end="\r", file=sys.stderr, flush=True)
    counts = ", ".join(f"{count:,} {ended}" for ended, count in sorted(ends.items()))
    print(f"{kind.title}: {counts}", flush=True)
    return set(ends) <= {"read", "refused"}


def main(cases: int) -> int:
    """Try `cases` checkpoints of all kinds."""
    logging.disable(logging.CRITICAL)  # what is left out of a checkpoint
    return 0 if all([run(kind, round(kind.share * cases)) for kind in KINDS]) else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else CASES))
