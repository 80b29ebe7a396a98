"""A norm of Flax that fails by rounding alone: its setting is named, and no mistake is."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import parity
from parity.diagnosis.locate import FAST_VARIANCE
from parity.diagnosis.match import UNKNOWN


class Port(nnx.Module):
    def __init__(self, fast, size):
        made = nnx.LayerNorm(size, epsilon=1e-5, use_fast_variance=fast, rngs=nnx.Rngs(0))
        self.norm = made

    def __call__(self, x):
        return 2 * self.norm(x)


class Reference(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.norm = torch.nn.LayerNorm(size)

    def forward(self, x):
        return 2 * self.norm(x)


@pytest.mark.parametrize("sizes", [(4, 6), (16, 8)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("fast", [True, False])
def test_of_numbers_with_a_large_mean(lenient, quickly_compiled, fast, dtype, sizes):
    x = 1000 + np.random.default_rng(0).standard_normal(sizes, dtype=np.float32)
    options = {"dtypes": [dtype], "training_steps": 0}
    report = parity.check(Reference(sizes[1]), Port(fast, sizes[1]), x, **options)
    assert report.passed == (not fast)
    if fast:
        assert report.first_divergence.note.startswith(f"{UNKNOWN}; {FAST_VARIANCE}")
