"""The machine of the measurements, and whether it is quiet."""

import os
import platform
import time
from pathlib import Path
from typing import Any

QUIET = 0.05
"""Largest part of the time for which a quiet machine's processor may be busy."""


def facts() -> dict[str, Any]:
    """Cores, processor and Python."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "python": platform.python_version(),
    }


def busy(seconds: float = 2.0) -> float:
    """The part of the time that all cores together are busy while this process sleeps.

    NaN if the system does not report it (it is read from Linux's /proc/stat).
    """
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    total, idle = (b - a for a, b in zip(before, after, strict=True))
    return 1 - idle / total if total else float("nan")


def _ticks() -> tuple[int, int]:
    """For all cores together: total clock ticks, and idle ones."""
    path = Path("/proc/stat")
    if not path.exists():
        return 0, 0
    ticks = [int(word) for word in path.read_text().splitlines()[0].split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]  # idle and waiting for a disk


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
