"""The goals, compared with the measurements."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.contestants import OURS
from benchmarks.report.figures import Measured, Results, floor, geometric_mean, of, ratio

MEMORY_BEFORE = 659 * 2**20
"""Peak bytes of the training step at 8 × 8192 before the native kernels, in version 0.1."""


class Goal(NamedTuple):
    """A lower or upper bound on the result of `measure`; None: the run has no such figure."""

    text: str
    measure: Callable[[Results], float | None]
    bound: float
    unit: str = "×"
    most: bool = False

    def reached(self, figure: float) -> bool:
        """Whether the figure is on the right side of the bound."""
        return figure <= self.bound if self.most else figure >= self.bound


def least_over_peers(part: str, mode: str) -> Callable[[Results], float | None]:
    """The smallest ratio to the fastest peer."""
    return lambda results: min(map(ratio, of(results, part, mode)), default=None)


def mean_over_pytorch(part: str, mode: str) -> Callable[[Results], float | None]:
    """The geometric mean of the ratios to eager PyTorch."""

    def mean(results: Results) -> float | None:
        cells = of(results, part, mode)
        return geometric_mean(ratio(each, "PyTorch") for each in cells) if cells else None

    return mean


def least_on_long(results: Results) -> float | None:
    """The smallest ratio to eager PyTorch of the network over 2048 steps and more."""
    cells = [each for each in of(results, "network") if each["time"] >= 2048]
    return min((ratio(each, "PyTorch") for each in cells), default=None)


def most_over_floor(inference: bool) -> Callable[[Results], float | None]:
    """The largest ratio to the floor in batches of 32 and more."""

    def wanted(each: Measured) -> bool:
        return each["batch"] >= 32 and (each["mode"] == "inference") == inference

    def most(results: Results) -> float | None:
        cells = [each for each in results["cells"] if wanted(each)]
        over = [each["seconds"][OURS]["median"] / floor(results, each) for each in cells]
        return max(over, default=None)

    return most


def dispatch(results: Results) -> float | None:
    """Microseconds that a jitted call at 1 × 32 takes beyond an empty one, with hardly any work."""
    if "beside" not in results:
        return None
    seconds = results["beside"]["dispatch_seconds"]
    return 1e6 * (seconds["layer, hidden 8"] - seconds["empty, hidden 8"])


def memory(results: Results) -> float | None:
    """Peak memory at 8 × 8192, relative to the earlier peak."""
    if "beside" not in results:
        return None
    return results["beside"]["peak_bytes"][OURS] / MEMORY_BEFORE


GOALS = (
    Goal(
        "layer, inference: never slower than the fastest peer",
        least_over_peers("layer", "inference"),
        1,
    ),
    Goal("layer, inference: mean over eager PyTorch", mean_over_pytorch("layer", "inference"), 1.5),
    Goal(
        "layer, gradients: never slower than the fastest peer",
        least_over_peers("layer", "gradients"),
        1,
    ),
    Goal("layer, gradients: mean over eager PyTorch", mean_over_pytorch("layer", "gradients"), 2),
    Goal(
        "network, inference: mean over eager PyTorch",
        mean_over_pytorch("network", "inference"),
        2.5,
    ),
    Goal(
        "network, training: mean over eager PyTorch", mean_over_pytorch("network", "training"), 2.5
    ),
    Goal("network, 2048 steps and more: each over eager PyTorch", least_on_long, 6),
    Goal("batches of 32 and more, inference: the floor", most_over_floor(True), 1.3, most=True),
    Goal("batches of 32 and more, with gradients: the floor", most_over_floor(False), 2, most=True),
    Goal("a jitted call at 1 × 32 (hidden 8) beyond an empty one", dispatch, 30, " µs", most=True),
    Goal("memory of training at 8 × 8192, of version 0.1's", memory, 1, most=True),
)


def verdict(goal: Goal, figure: float) -> str:
    """Reached, or by how much it was missed."""
    if goal.reached(figure):
        return "reached"
    share = abs(figure - goal.bound) / goal.bound
    return f"missed by {share:.0%}" if share >= 0.01 else "missed by less than 1%"
