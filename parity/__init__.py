"""Proof that a Flax model computes what its PyTorch reference computes, and where if it does not.

    report = parity.check(torch_model, flax_model, x)
    report.assert_passed()

`parity.harness.compare` is the same for any `Port`.
"""

from parity.check import check
from parity.port import Port, Side
from parity.report import Report, Row

__all__ = ["Port", "Report", "Row", "Side", "check"]
