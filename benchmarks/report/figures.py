"""Numbers of a run's JSON: medians, ratios, floors and their means."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.cells import Cell
from benchmarks.contestants import OURS, PEERS

Results = dict[str, Any]
"""The JSON that `benchmarks.__main__` writes."""
Measured = dict[str, Any]
"""One cell in it."""


def cell_of(measured: Measured) -> Cell:
    """The cell that was measured."""
    return Cell(*(measured[field] for field in Cell._fields))


def of(results: Results, part: str, mode: str | None = None) -> list[Measured]:
    """The measured cells of one part, in one mode or in all modes."""
    return [
        measured
        for measured in results["cells"]
        if measured["part"] == part and mode in (None, measured["mode"])
    ]


def median(measured: Measured, name: str = OURS) -> float:
    """Seconds."""
    return measured["seconds"][name]["median"]


def fastest_peer(measured: Measured) -> str:
    """The fastest peer that ran the cell."""
    return min(
        (name for name in PEERS if name in measured["seconds"]), key=lambda n: median(measured, n)
    )


def ratio(measured: Measured, peer: str | None = None) -> float:
    """How many times faster than a peer this library is; None is the fastest peer of the cell."""
    return median(measured, peer or fastest_peer(measured)) / median(measured)


def floor(results: Results, measured: Measured) -> float:
    """Seconds that the matrix products alone take at the machine's best rate."""
    return cell_of(measured).matmul_flops / results["matmul_flops_per_second"]


def geometric_mean(ratios: Iterable[float]) -> float:
    """The geometric mean."""
    return float(np.exp(np.mean(np.log(list(ratios)))))


def spread(results: Results) -> tuple[float, float]:
    """Interquartile range of a contestant's rounds, relative to the median: its median and 90 %."""
    spreads = [
        (seconds["quartile_3"] - seconds["quartile_1"]) / seconds["median"]
        for measured in results["cells"]
        for seconds in measured["seconds"].values()
    ]
    return float(np.median(spreads)), float(np.percentile(spreads, 90))
