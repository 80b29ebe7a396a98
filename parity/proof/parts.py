"""The parts of a long proof, in parallel processes."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import torch

from parity.checks import Progress
from parity.report import Report

Part = Callable[[Progress], Report]
"""One part: takes a progress callback and returns a report. Picklable, for other processes."""


def silent(what: str) -> None:
    """A progress callback that does nothing."""


def prove(parts: Sequence[Part], jobs: int, progress: Progress) -> list[Report]:
    """The report of every part, in their order; an error of any part is raised.

    Other processes start with the first part. This process starts with the last part, and takes
    the parts that no other has started.

    Args:
        parts: put long parts at both ends, so that none of them starts last.
        jobs: the number of processes; 1 is this process alone.
        progress: called with what this process does.
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
