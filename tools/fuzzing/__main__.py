"""`python -m tools.fuzzing [CASES]`: read so many damaged files; exit code 1 if one ends badly."""

import collections
import sys
import tempfile
import time
from pathlib import Path

from flax_bilstm import checkpoints
from tools.fuzzing.damage import corpus, damaged

CASES = 30_000
LIMIT = 5.0
"""Most CPU seconds for one file."""


def outcome(path: Path) -> str:
    """The outcome of reading the file: "read", "refused", or a failure."""
    start = time.process_time()
    try:
        checkpoints.read(path)
        ended = "read"
    except ValueError as error:
        ended = "refused" if str(error).startswith(f"{path}: expected") else f"unclear: {error}"
    except Exception as error:  # any other error is a failure
        ended = f"failed: {type(error).__name__}: {error}"
    seconds = time.process_time() - start
    return ended if seconds < LIMIT else f"slow: {seconds:.1f} s"


def main(cases: int) -> int:
    """Try `cases` files, print the number of each outcome, and every seed that failed."""
    originals = corpus()
    ends: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        for seed in range(cases):
            path.write_bytes(damaged(originals, seed))
            ended = outcome(path)
            ends[ended.partition(":")[0]] += 1
            if ended not in ("read", "refused"):
                print(f"seed {seed}: {ended}")
            if sys.stderr.isatty() and seed % 500 == 499:
                print(f"{seed + 1} of {cases}", end="\r", file=sys.stderr, flush=True)
    print(", ".join(f"{count} {ended}" for ended, count in sorted(ends.items())))
    return 0 if set(ends) <= {"read", "refused"} else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else CASES))
