import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jaxtyping
import pytest

jaxtyping.install_import_hook("torch_ref", "beartype.beartype")


@pytest.fixture
def notebook() -> SimpleNamespace:
    """The notebook's own classes, and what it prints."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("notebook.py"))))


@pytest.fixture(scope="session")
def assert_same() -> Callable[..., None]:
    """Named tensors equal to 1e-13 of each tensor's largest element: float64's judgement."""
    import torch

    def assert_same(actual, expected):
        assert actual.keys() == expected.keys()
        for name, truth in expected.items():
            value = actual[name]
            if truth is None or value is None:
                assert value is truth, f"{name}: {value} where {truth} was expected"
                continue
            assert truth.dtype == torch.float64, f"{name}: judged in {truth.dtype}"
            assert (value.shape, value.dtype) == (truth.shape, truth.dtype), name
            assert truth.isfinite().all(), f"{name}: the reference is not finite"
            assert value.isfinite().all(), f"{name}: not finite"
            if truth.numel():
                error = (value - truth).abs().max().item()
                scale = truth.abs().max().item()
                assert error <= 1e-13 * scale, f"{name}: {error:.3g} off at a scale of {scale:.3g}"

    return assert_same
