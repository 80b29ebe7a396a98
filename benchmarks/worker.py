"""One contestant in a process of its own: prepares a cell, then times it when it is told to.

Talks JSON lines over standard input and output, so that the parent can interleave contestants that
need different devices, threads and flags. Requests: {"cell": [...]} → {"seconds", "result"}: what
building and the first run took, and what it gave; {"runs": n} → {"samples": [seconds, ...]};
{"memory": true} → {"peak_bytes"}; {"matmul": true} → {"flops_per_second"}.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import CONTESTANTS, Cell, Contestant
from benchmarks.contestants import BUILDERS, Run


def set_up(contestant: Contestant) -> dict[str, Any]:
    """Devices and threads, before anything runs; returns what was set and the versions."""
    cores = len(os.sched_getaffinity(0))
    if contestant.framework == "torch":
        import torch

        torch.set_num_threads(cores)
        return {"torch": torch.__version__, "threads": cores}
    import flax
    import jax

    jax.config.update("jax_num_cpu_devices", contestant.devices)
    return {
        "jax": jax.__version__, "flax": flax.__version__, "devices": jax.device_count(),
        "platform": jax.default_backend(),
    }  # fmt: skip


def timed(run: Run, count: int) -> list[float]:
    """Seconds of each of `count` runs."""
    samples = []
    for _ in range(count):
        start = time.perf_counter()
        run()
        samples.append(time.perf_counter() - start)
    return samples


def peak_bytes() -> int:
    """This process's own peak resident memory; a child's ru_maxrss would start at its parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM: memory is measured on Linux only")


def matmul_rate() -> float:
    """Operations a second of a large float32 matrix product on all cores: the best of several."""
    import torch

    n = 2048
    a, b = torch.randn(n, n), torch.randn(n, n)
    return 2 * n**3 / min(timed(lambda: torch.mm(a, b), 8))


def main(name: str) -> None:
    """Serve requests until standard input ends."""
    contestant = CONTESTANTS[name]
    answers = sys.stdout
    sys.stdout = sys.stderr  # nothing that a library prints may reach the parent as an answer

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    answer(**set_up(contestant))
    run: Run  # of the cell that was asked for last
    for line in sys.stdin:
        request = json.loads(line)
        if "cell" in request:
            start = time.perf_counter()
            run = BUILDERS[contestant.framework](Cell(*request["cell"]), contestant)
            result = np.asarray(run()).ravel().tolist()
            answer(seconds=time.perf_counter() - start, result=result)
        elif "runs" in request:
            answer(samples=timed(run, request["runs"]))
        elif "memory" in request:
            answer(peak_bytes=peak_bytes())
        elif "matmul" in request:
            answer(flops_per_second=matmul_rate())


if __name__ == "__main__":
    main(sys.argv[1])
