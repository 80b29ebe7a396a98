"""How long a call takes, a number of times."""

import time
from collections.abc import Callable
from typing import Any


def timed(run: Callable[[], Any], count: int) -> list[float]:
    """Seconds of each of `count` runs."""
    samples = []
    for _ in range(count):
        start = time.perf_counter()
        run()
        samples.append(time.perf_counter() - start)
    return samples
