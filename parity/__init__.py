"""Checks that a Flax model computes what its PyTorch reference does; locates the error if not.

    report = parity.check(torch_model, flax_model, x)
    report.assert_passed()

`parity.compare_sides` is the same for any `Pair` of two `Side`s.
"""

from parity.checking import check
from parity.compare import compare_sides
from parity.place import Case
from parity.report import Report
from parity.results import Row
from parity.sides import losses, optimizers
from parity.sides.losses import Loss
from parity.sides.optimizers import Optimizer
from parity.sides.side import Pair, Side

__all__ = [
    "Case", "Loss", "Optimizer", "Pair", "Report", "Row", "Side", "check", "compare_sides",
    "losses", "optimizers",
]  # fmt: skip
