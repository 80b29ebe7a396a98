"""Proof that a Flax model computes what its PyTorch reference computes, and where if it does not.

    report = parity.check(torch_model, flax_model, x)
    report.assert_passed()

`parity.compare_sides` is the same for any `Pair` of two `Side`s.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parity.checking import check
    from parity.compare import compare_sides
    from parity.report import Report, Row
    from parity.sides import losses, optimizers
    from parity.sides.losses import Loss
    from parity.sides.optimizers import Optimizer
    from parity.sides.side import Pair, Side

__all__ = [
    "Loss", "Optimizer", "Pair", "Report", "Row", "Side", "check", "compare_sides", "losses",
    "optimizers",
]  # fmt: skip

_HOMES = {
    "check": "checking", "compare_sides": "compare", "Loss": "sides.losses",
    "Optimizer": "sides.optimizers", "Pair": "sides.side", "Report": "report", "Row": "report",
    "Side": "sides.side",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """The public names, imported when asked for: pytest loads the plugin in every run."""
    if name in _HOMES:
        return getattr(import_module(f"parity.{_HOMES[name]}"), name)
    if name in __all__:
        return import_module(f"parity.sides.{name}")
    raise AttributeError(f"module 'parity' has no attribute {name!r}")
