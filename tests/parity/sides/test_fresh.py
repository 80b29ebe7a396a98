"""Vectors that are still 0 and 1 hide how they are used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
import parity
from parity.sides.fresh import movable
from parity.sides.torch_side import TorchSide

X = np.random.default_rng(0).standard_normal((6, 4), dtype=np.float32)
USES = {
    "right": lambda x, mean, var: (x - mean) * jax.lax.rsqrt(var + 1e-5),
    "mean added": lambda x, mean, var: (x + mean) * jax.lax.rsqrt(var + 1e-5),
    "mean left out": lambda x, mean, var: x * jax.lax.rsqrt(var + 1e-5),
    "variance left out": lambda x, mean, var: (x - mean) / jnp.sqrt(jnp.ones_like(var) + 1e-5),
}


class Norm(nnx.Module):
    """BatchNorm in evaluation mode, which uses its statistics in one of several ways."""

    def __init__(self, use, kind=nnx.Param):
        self.weight, self.bias = kind(jnp.ones(4)), kind(jnp.zeros(4))
        self.running_mean = nnx.BatchStat(jnp.zeros(4))
        self.running_var = nnx.BatchStat(jnp.ones(4))
        self.use = use

    def __call__(self, x):
        held = (self.running_mean[...][None], self.running_var[...][None])
        return self.use(x, *held) * self.weight[...][None] + self.bias[...][None]


def check(use, reference, kind=nnx.Param):
    options = {"ignore": ["num_batches_tracked"], "training_steps": 0, "dtypes": ["float32"]}
    return parity.check(reference, Norm(USES[use], kind), X, **options)


@pytest.mark.parametrize("use", USES)
def test_fresh_statistics_are_moved_for_one_more_forward_pass(quickly_compiled, use):
    report = check(use, torch.nn.BatchNorm1d(4))
    failing = {(row.check, row.name, row.explains) for row in report.rows if row.failed}
    wrong = {("forward", "output", True), ("forward again", "output", False)}
    assert failing == (set() if use == "right" else wrong)


class Frozen(torch.nn.Module):
    """BatchNorm by hand, all of whose numbers are buffers."""

    def __init__(self):
        super().__init__()
        for name in ("bias", "running_mean"):
            self.register_buffer(name, torch.zeros(4))
        for name in ("weight", "running_var"):
            self.register_buffer(name, torch.ones(4))

    def forward(self, x):
        y = (x - self.running_mean) * torch.rsqrt(self.running_var + 1e-5)
        return y * self.weight + self.bias


@pytest.mark.parametrize("use", USES)
def test_so_are_buffers_of_a_norm_by_hand(quickly_compiled, use):
    assert check(use, Frozen(), nnx.BatchStat).passed == (use == "right")


def test_statistics_that_were_updated_are_not_moved(quickly_compiled):
    reference = torch.nn.BatchNorm1d(4, affine=False)
    for step in range(3):
        reference(torch.from_numpy(X + step))
    ours = Norm(USES["right"])
    for name in ("running_mean", "running_var"):
        getattr(ours, name)[...] = jnp.asarray(getattr(reference, name).numpy())
    del ours.weight, ours.bias
    ours.weight, ours.bias = jnp.ones(4), jnp.zeros(4)
    report = parity.check(
        reference, ours, X, ignore=["num_batches_tracked"], training_steps=0, dtypes=["float32"]
    )
    report.assert_passed()
    assert "forward again" not in {row.check for row in report.rows}


class Scaled(torch.nn.Module):
    """A scale of 1 and a bias of 0, as a norm begins."""

    def __init__(self):
        super().__init__()
        self.scale, self.bias = (torch.nn.Parameter(v) for v in (torch.ones(4), torch.zeros(4)))

    def forward(self, x):
        return x * self.scale + self.bias


@pytest.mark.parametrize("right", [True, False])
def test_so_are_parameters(quickly_compiled, right):
    def port(state, x):
        scale, bias = state["scale"][None], state["bias"][None]
        return x * scale + bias if right else (x + bias) * scale

    report = parity.check(Scaled(), port, X, training_steps=0, dtypes=["float64"])
    assert report.passed == right
    assert {row.check for row in report.rows if row.failed and not row.explains} == (
        set() if right else {"forward again"}
    )


class Twice(torch.nn.Module):
    """Two layers with one weight and one bias, which is still 0."""

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        torch.nn.init.zeros_(self.a.bias)
        self.b.weight, self.b.bias = self.a.weight, self.a.bias

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


class FlaxTwice(nnx.Module):
    def __init__(self):
        self.a = nnx.Linear(4, 4, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.a(jnp.tanh(self.a(x)))


def twice(state, x):
    y = jnp.tanh(x @ state["a.weight"].T + state["a.bias"][None])
    return y @ state["b.weight"].T + state["b.bias"][None]


@pytest.mark.parametrize("function", [True, False])
def test_tied_vectors_stay_tied(quickly_compiled, function):
    reference, ours, names = Twice(), twice, None
    if not function:
        ours, names = FlaxTwice(), {"a": ("a", "b")}
        fb.load_state_dict(ours, reference.state_dict(), names=names)
    options = {"training_steps": 2, "optimizers": [parity.optimizers.ADAM], "dtypes": ["float64"]}
    report = parity.check(reference, ours, X, names=names, **options)
    report.assert_passed()
    assert "forward again" in {row.check for row in report.rows}
    assert {"a.weight", "b.weight"} <= {r.name for r in report.rows if r.check == "training"}


class Held(torch.nn.Module):
    """A buffer of this value that a function reads."""

    def __init__(self, value, read):
        super().__init__()
        self.a, self.read = torch.nn.Linear(4, 4), read
        self.register_buffer("held", value)

    def forward(self, x):
        return self.read(self.a(x), self.held)


BUFFERS = {
    "a matrix of variances": (
        torch.ones(6, 4), lambda y, v: y / v**0.5, lambda y, v: y / v,
    ),
    "a count of steps": (
        torch.tensor(0), lambda y, n: y * (1 + n / 10), lambda y, n: y * (1 - n / 10),
    ),
    "a divisor of 1": (
        torch.tensor(1), lambda y, n: y / n, lambda y, n: y * n,
    ),
    "a share of one half": (
        torch.tensor(0.5), lambda y, a: a * y + (1 - a) * y**2, lambda y, a: a * y**2 + (1 - a) * y,
    ),
    "a choice of all": (
        torch.ones(4, dtype=torch.bool), lambda y, on: y * on, lambda y, on: y,
    ),
    "a rotation": (torch.eye(4), lambda y, turn: y @ turn, lambda y, turn: y @ turn.T),
    "a switch": (
        torch.tensor(False), lambda y, on: y * (1 + on * 1.0), lambda y, on: y,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BUFFERS)
@pytest.mark.parametrize("right", [True, False])
def test_buffers_of_other_kinds_are_moved(quickly_compiled, lenient, name, right):
    value, theirs, wrong = BUFFERS[name]

    def port(state, x):
        y = x @ state["a.weight"].T + state["a.bias"][None]
        return (theirs if right else wrong)(y, state["held"])

    report = parity.check(Held(value, theirs), port, X, dtypes=["float64"], training_steps=0)
    assert report.passed == right


def test_a_buffer_that_can_have_no_other_value_is_noted(quickly_compiled, lenient):
    """An index into a table with one entry; the bias, still 0, is moved all the same."""
    reference = Held(torch.tensor([0]), lambda y, i: y + torch.ones(1, 4)[i])
    torch.nn.init.zeros_(reference.a.bias)

    def port(state, x):
        return x @ state["a.weight"].T + state["a.bias"][None] + 1

    report = parity.check(reference, port, X, dtypes=["float64"], training_steps=0)
    report.assert_passed()
    (facts,) = report.cases.values()
    words = "with other numbers for held, torch_model raises IndexError"
    assert facts["notes"][-1].startswith(words)
    assert "forward again" in {row.check for row in report.rows}


def test_a_reference_without_any_that_gives_nan_has_no_note(quickly_compiled):
    reference = Held(torch.arange(1.0, 5), lambda y, v: torch.where(y > 0, y / v, torch.nan))
    side = TorchSide(reference)
    assert movable(side, {"x": X}) == ((), [])
