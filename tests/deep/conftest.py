"""Float64 for all of these tests, and the number of random cases for each.

`make deep` raises that number by the environment variable DEEP_CASES.
"""

import os

import hypothesis
import pytest

CASES = int(os.environ.get("DEEP_CASES", "3"))

hypothesis.settings.register_profile(
    "deep", parent=hypothesis.settings.get_profile("project"), max_examples=CASES
)


@pytest.fixture(autouse=True)
def _in_float64(x64: None) -> None:
    """Meaning is judged in float64."""
