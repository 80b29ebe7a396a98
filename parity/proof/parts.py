"""The parts of a long proof, in processes beside each other."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import torch

from parity.compare import Progress
from parity.report import Report

Part = Callable[[Progress], Report]
"""One part: takes a progress callback and returns a report. Picklable, for other processes."""


def silent(what: str) -> None:
    """The progress that is told to nobody."""


def prove(parts: Sequence[Part], jobs: int, progress: Progress) -> list[Report]:
    """The report of every part, in their order; what one raises is raised, of several any.

    Other processes begin with the first part. This one begins with the last, and takes what no
    other has begun.

    Args:
        parts: long ones at both ends, so that nobody is left alone with one.
        jobs: processes at once; 1 is this one alone.
        progress: told what this process does.
    """
    if jobs == 1:
        return [part(progress) for part in parts]
    context = multiprocessing.get_context("spawn")
    workers = min(jobs, len(parts)) - 1
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as pool:
        others = [pool.submit(part, silent) for part in parts]
        try:
            own = {i: parts[i](progress) for i in range(len(parts))[::-1] if others[i].cancel()}
            progress("waiting for the other processes")
            return [own[i] if i in own else other.result() for i, other in enumerate(others)]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
