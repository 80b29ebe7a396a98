"""What a candidate holds beside its parameters: plain arrays, and variables made in a call."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")

import flax_bilstm as fb
import parity

POSITIONS = np.linspace(0, 1, 4, dtype=np.float32)
X = np.random.default_rng(0).standard_normal((4, 4), dtype=np.float32)
pytestmark = pytest.mark.usefixtures("standard_promotion", "quickly_compiled")


class Theirs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 3)
        self.positions = torch.tensor(POSITIONS)

    def forward(self, x):
        return torch.tanh(self.fc(x + self.positions.to(x.dtype)))


class Ours(nnx.Module):
    def __init__(self, positions):
        self.fc = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
        self.positions = positions

    def __call__(self, x):
        return jnp.tanh(self.fc(x + jnp.asarray(self.positions, x.dtype)[None]))


class Sown(Ours):
    def __call__(self, x):
        self.sow(nnx.Intermediate, "x", x)
        self.seen = nnx.Intermediate(x)
        return super().__call__(x)


def check(positions, kind=Ours):
    theirs, ours = Theirs(), kind(positions)
    fb.load_state_dict(ours, theirs.state_dict())
    return parity.check(
        theirs, ours, X, training_steps=2, optimizers=parity.optimizers.OPTIMIZERS[:1]
    )


@pytest.mark.parametrize("array", [np.array, jnp.array])
def test_a_plain_array_is_a_constant(array):
    assert check(array(POSITIONS)).passed


def test_a_wrong_constant_fails():
    report = check(POSITIONS + np.float32(1e-5))
    assert not report.passed
    assert report.first_divergence.check == "forward"


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
def test_what_is_sown_in_a_call_changes_nothing():
    assert check(POSITIONS, Sown).passed


TABLE = np.arange(12.0).reshape(4, 3) / 7


class Added(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.table = torch.nn.Linear(4, 3), TABLE

    def forward(self, x):
        return torch.tanh(self.fc(x) + torch.as_tensor(self.table, dtype=x.dtype))


@pytest.mark.parametrize("factor", [1.0, 1.0001])
def test_a_table_in_float64_of_numpy_that_the_code_refers_to(factor):
    """JAX itself would take it for float64 in a float32 run that follows a float64 one."""

    def added(state, x):
        return jnp.tanh(x @ state["fc.weight"].T + state["fc.bias"][None] + table)

    table = factor * TABLE
    report = parity.check(Added(), added, X, training_steps=1)
    assert report.passed == (factor == 1)
    assert "raises" not in str(report)
