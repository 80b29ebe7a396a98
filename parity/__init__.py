"""Proof that a Flax model computes what its PyTorch reference computes, and where if it does not.

    report = parity.check(torch_model, flax_model, x)
    report.assert_passed()

`parity.harness.compare` is the same for any `Port`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parity import modules, optimizers
    from parity.checking import check
    from parity.port import Port, Side
    from parity.report import Report, Row

__all__ = ["Port", "Report", "Row", "Side", "check", "modules", "optimizers"]

_HOMES = {"check": "checking", "Port": "port", "Side": "port", "Report": "report", "Row": "report"}


def __getattr__(name: str) -> Any:
    """The public names, imported when asked for: pytest loads the plugin in every run."""
    if name in _HOMES:
        return getattr(import_module(f"parity.{_HOMES[name]}"), name)
    if name in __all__:
        return import_module(f"parity.{name}")
    raise AttributeError(f"module 'parity' has no attribute {name!r}")
