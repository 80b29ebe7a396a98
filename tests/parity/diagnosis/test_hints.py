"""What fails by rounding alone: what rounds is named, and no mistake is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
import parity
from parity.diagnosis.locate import FAST_VARIANCE, ROUNDED
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


class Rotating(torch.nn.Module):
    """Frequencies in float32, as most code has them."""

    def __init__(self):
        super().__init__()
        self.out = torch.nn.Linear(4, 2)
        table = 1 / 10 ** (torch.arange(4) / 4)
        self.register_buffer("frequencies", table, persistent=False)

    def forward(self, x):
        return self.out(torch.sin(x * self.frequencies))


class FlaxRotating(nnx.Module):
    def __init__(self, dtype, factor=1.0):
        self.out = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
        self.dtype, self.factor = dtype, factor

    def __call__(self, x):
        frequencies = 1 / 10 ** (np.arange(4) / 4)
        table = frequencies.astype(self.dtype).astype(np.float64) * self.factor
        return self.out(jnp.sin(x * jnp.asarray(table, x.dtype)))


@pytest.mark.parametrize(("dtype", "factor"), [("float32", 1), ("float64", 1), ("float64", 1.01)])
def test_a_constant_in_float32(quickly_compiled, dtype, factor):
    reference, port = Rotating(), FlaxRotating(dtype, factor)
    fb.load_state_dict(port, reference.state_dict())
    x = np.random.default_rng(0).standard_normal((3, 4), dtype=np.float32)
    with jax.numpy_rank_promotion("allow"):
        report = parity.check(reference, port, x, dtypes=["float64"], training_steps=0)
    assert report.passed == (dtype == "float32")
    words = f"{UNKNOWN}; frequencies {ROUNDED}"
    assert (words in str(report)) == (not report.passed and factor == 1)
