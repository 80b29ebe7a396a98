"""A pytest plugin: the fixture `assert_parity`, with the report as the text of a failure.

It is loaded in every pytest run and imports nothing until a test asks for the fixture.
"""

from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    import torch
    from flax import nnx

    from parity.checking import Inputs
    from parity.report import Report


class AssertParity(Protocol):
    """The type of the fixture."""

    def __call__(
        self,
        torch_module: "torch.nn.Module",
        flax_module: "nnx.Module",
        inputs: "Inputs",
        *,
        training_steps: int = 0,
        **options: Any,
    ) -> "Report":
        """Return the report if it passed; otherwise fail the test and show the report."""


@pytest.fixture(scope="session")
def assert_parity() -> AssertParity:
    """`assert_parity(torch_module, flax_module, inputs)`: fail unless the two agree.

    Parameters, forward pass and gradients are compared, in float64 and float32; with
    `training_steps=10` also training. It takes all options of `parity.check`.
    """

    def assert_parity(
        torch_module: "torch.nn.Module",
        flax_module: "nnx.Module",
        inputs: "Inputs",
        *,
        training_steps: int = 0,
        **options: Any,
    ) -> "Report":
        from parity.checking import check

        report = check(torch_module, flax_module, inputs, training_steps=training_steps, **options)
        if not report.passed:
            pytest.fail(str(report), pytrace=False)
        return report

    return assert_parity
