"""docs/api.md lists what is public, no more and no less."""

import re
from pathlib import Path

import pytest

import flax_bilstm

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def listed(package: str) -> set[str]:
    return set(re.findall(rf"^::: {package}\.(\w+)$", PAGE.read_text(), re.MULTILINE))


def test_every_public_name_of_the_library_is_listed():
    assert listed("flax_bilstm") == {*flax_bilstm.__all__}


def test_every_public_name_of_the_proof_is_listed():
    pytest.importorskip("torch")
    import parity

    assert listed("parity") == set(parity.__all__)
