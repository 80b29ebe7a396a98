"""One contestant in a separate process: prepares a cell, then runs it on request.

It exchanges JSON lines over standard input and output, so that the parent can interleave
contestants that need different devices, threads and flags. A request is {"do": NAME, ...}; NAME is
a method below.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import Cell
from benchmarks.contestants import CONTESTANTS, Prepared
from benchmarks.timed import timed
from benchmarks.workload import difference


class Server:
    """Answers requests about one contestant."""

    prepared: Prepared

    def __init__(self, name: str):
        self.contestant = CONTESTANTS[name]
        self.module = self.contestant.load()
        self.facts = self.module.set_up(**self.contestant.options)

    def prepare(self, cell: list[Any]) -> dict[str, Any]:
        """Build the cell and run it once; returns the seconds of both together."""
        self.__dict__.pop("prepared", None)  # frees the memory of the previous cell
        start = time.perf_counter()
        self.prepared = self.module.build(Cell(*cell), **self.contestant.options)
        self.result = self.prepared.run()
        return {"seconds": time.perf_counter() - start}

    def save(self, path: str) -> dict[str, Any]:
        """Write the results of the first run to an .npz file."""
        arrays: dict[str, Any] = self.prepared.arrays(self.result)
        np.savez(path, **arrays)
        return {}

    def check(self, path: str) -> dict[str, Any]:
        """The distance of the first run's arrays from those in a file, and the kernel that ran."""
        with np.load(path) as truth:
            arrays = self.prepared.arrays(self.result)
            off = difference(arrays, dict(truth))
        del self.result
        return {"difference": off, "kernel": self.prepared.kernel()}

    def run(self, count: int) -> dict[str, Any]:
        """Run the prepared cell; returns the seconds of each run."""
        return {"samples": timed(self.prepared.run, count)}

    def peak_memory(self) -> dict[str, Any]:
        """The peak resident bytes of this process; a child's ru_maxrss starts at its parent's."""
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return {"bytes": int(line.split()[1]) * 1024}
        raise RuntimeError("/proc/self/status has no VmHWM: memory is measured on Linux only")

    def matmul_rate(self) -> dict[str, Any]:
        """Operations per second of a large matrix product."""
        return {"flops_per_second": self.module.matmul_rate()}

    def dispatch(self) -> dict[str, Any]:
        """Seconds of small jitted calls."""
        from benchmarks.dispatch import seconds

        return {"seconds": seconds()}


def main(name: str) -> None:
    """Serve requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the parent must not take a library's output as an answer
    server = Server(name)
    print(json.dumps(server.facts), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(server, request.pop("do"))(**request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
