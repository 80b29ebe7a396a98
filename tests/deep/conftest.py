"""Float64 for all of these tests, and the number of random cases for each.

`make deep` raises that number by the environment variable DEEP_CASES: so many comparisons with
PyTorch, shared out among the implementations, eight for each program; and a fiftieth as many for
each law.
"""

import os

import hypothesis
import pytest

from flax_bilstm.recurrence import IMPLEMENTATIONS

CASES = int(os.environ.get("DEEP_CASES", "0"))

for name, cases in {
    "deep": max(4, CASES // len(IMPLEMENTATIONS) // 8),
    "deep laws": max(4, CASES // 50),
}.items():
    hypothesis.settings.register_profile(
        name, parent=hypothesis.settings.get_profile("project"), max_examples=cases
    )


@pytest.fixture(autouse=True)
def _in_float64(x64: None) -> None:
    """Meaning is judged in float64."""
