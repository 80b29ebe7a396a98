"""What only training mode shows of BatchNorm: its momentum and statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
import parity
from parity.sides.settings import of_pairs
from parity.sides.training_mode import NOTE

RNGS = nnx.Rngs(0)
X = np.random.default_rng(0).standard_normal((6, 3), dtype=np.float32)
pytestmark = pytest.mark.usefixtures("lenient")
OPTIONS = {"dtypes": ["float64"], "optimizers": [parity.optimizers.SGD], "training_steps": 3}


class Ours(nnx.Module):
    def __init__(self, *parts):
        self.parts = nnx.List(parts)

    def __call__(self, x):
        for part in self.parts:
            x = part(x)
        return x


def torch_norm(**options):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4, **options))


def flax_norm(momentum=0.9, *more):
    norm = nnx.BatchNorm(4, momentum=momentum, epsilon=1e-5, rngs=RNGS)
    return Ours(nnx.Linear(3, 4, rngs=RNGS), norm, *more)


def check(theirs, ours, x=X, **options):
    names = {f"parts.{i}": str(i) for i in range(len(ours.parts))}
    state = theirs.state_dict()
    held = {n: m for n, m in names.items() if any(key.startswith(f"{m}.") for key in state)}
    fb.load_state_dict(ours, state, names=held, ignore=options.get("ignore", ()))
    return parity.check(theirs, ours, x, names=names, **{**OPTIONS, **options})


def failing(report):
    return [(row.check, row.name) for row in report.rows if not row.passed]


@pytest.mark.parametrize(("dtype", "mean"), [("float64", 0), ("float32", 30)])
def test_statistics_are_compared_after_training_steps(quickly_compiled, dtype, mean):
    report = check(torch_norm(), flax_norm(), X + np.float32(mean), dtypes=[dtype])
    report.assert_passed()
    (moved,) = (
        row for row in report.rows if (row.check, row.name) == ("training", "1.running_var")
    )
    assert moved.truth != 1
    (case,) = report.cases.values()
    assert case["notes"] == [NOTE]


class Dropping(torch.nn.Sequential):
    def forward(self, x):
        return torch.nn.functional.dropout(super().forward(x), 0.3, self.training)


@pytest.mark.parametrize("momentum", [0.9, 0.8])
def test_statistics_are_compared_beside_a_dropout_that_is_a_function(quickly_compiled, momentum):
    dropping = nnx.Dropout(0.3, rngs=nnx.Rngs(0))
    report = check(Dropping(*torch_norm()), flax_norm(momentum, dropping))
    wrong = {("training", "1.running_mean"), ("training", "1.running_var")}
    assert wrong.issubset(failing(report)) == (momentum != 0.9)
    assert report.passed == (momentum == 0.9)


def test_a_momentum_in_the_other_convention_is_named_and_its_statistics_fail(quickly_compiled):
    report = check(torch_norm(), flax_norm(momentum=0.1))
    first = report.first_divergence
    assert (first.check, first.name) == ("training mode", "momentum of running averages")
    assert "[0.1] in the reference, [0.9] in the candidate, at 1; PyTorch's 0.1 is " in first.note
    assert {name for check, name in failing(report) if check == "training"} == {
        "1.running_mean", "1.running_var",
    }  # fmt: skip


AFTER = "training mode", "1.running_var after"


class OwnNorm(nnx.Module):
    """PyTorch's BatchNorm by hand, with its variance over n − 1."""

    def __init__(self, factor=1.0):
        self.weight, self.bias = nnx.Param(jnp.ones(4)), nnx.Param(jnp.zeros(4))
        self.running_mean = nnx.BatchStat(jnp.zeros(4))
        self.running_var = nnx.BatchStat(jnp.ones(4))
        self.use_running_average, self.factor = False, factor

    def __call__(self, x):
        mean, var = self.running_mean[...], self.running_var[...]
        if not self.use_running_average:
            mean, var = x.mean(0), x.var(0)
            unbiased = self.factor * x.var(0, ddof=1)
            self.running_mean[...] = 0.9 * self.running_mean[...] + 0.1 * mean
            self.running_var[...] = 0.9 * self.running_var[...] + 0.1 * unbiased
        y = (x - mean[None]) * jax.lax.rsqrt(var + 1e-5)[None]
        return y * self.weight[...][None] + self.bias[...][None]


@pytest.mark.parametrize(
    ("factor", "wrong"), [(1.0, set()), (5 / 6, {("training", "1.running_var"), AFTER})]
)
def test_statistics_of_a_norm_by_hand_are_compared_as_pytorch_has_them(
    quickly_compiled, factor, wrong
):
    ours = Ours(nnx.Linear(3, 4, rngs=RNGS), OwnNorm(factor))
    report = check(torch_norm(), ours, ignore=["1.num_batches_tracked"])
    assert set(failing(report)) == wrong


def test_two_momenta_that_are_exchanged_are_found():
    stages = {"0": "parts.0", "1": "parts.1"}
    theirs, ours = {"0": 0.1, "1": 0.2, "alone": 0.3}, {"parts.0": 0.2, "parts.1": 0.1}
    found = of_pairs("momentum", theirs, ours, stages)
    assert "[0.1, 0.2] in the reference, [0.2, 0.1] in the candidate, at 0, 1" in found.words
    found = of_pairs("momentum", theirs, {"parts.0": 0.1, "parts.1": 0.2}, stages)
    assert found.words == "momentum [0.1, 0.2] in both"


class StillNorm(torch.nn.BatchNorm1d):
    """Stays in evaluation mode, as where trained layers are tuned."""

    def train(self, mode=True):
        return super().train(False)


def test_a_norm_that_stays_in_evaluation_mode_is_left_alone(quickly_compiled):
    reference = torch.nn.Sequential(torch.nn.Linear(3, 4), StillNorm(4))
    ours = flax_norm()
    ours.parts[1] = FlaxStillNorm(4, momentum=0.9, epsilon=1e-5, rngs=RNGS)
    check(reference, ours).assert_passed()


class FlaxStillNorm(nnx.BatchNorm):
    def __call__(self, x):
        return super().__call__(x, use_running_average=True)


class Random(torch.nn.Sequential):
    def forward(self, x):
        return super().forward(x) + self.training * torch.rand(())


class Noisy(nnx.Module):
    deterministic = False

    def __init__(self):
        self.rngs = nnx.Rngs(0)

    def __call__(self, x):
        return x if self.deterministic else x + 0 * jax.random.normal(self.rngs(), x.shape)


@pytest.mark.parametrize(
    ("theirs", "ours", "why"),
    [
        (Random, flax_norm, "the reference is random in it"),
        (torch.nn.Sequential, lambda: flax_norm(0.9, Noisy()), "random streams"),
    ],
)
def test_training_mode_that_is_random_is_not_run(quickly_compiled, theirs, ours, why):
    report = check(theirs(*torch_norm()), ours())
    report.assert_passed()
    (case,) = report.cases.values()
    (note,) = case["notes"]
    assert note.startswith("training mode is not run: ")
    assert why in note


def test_parameters_that_are_all_zero_are_told(quickly_compiled):
    theirs = torch.nn.Linear(3, 2)
    torch.nn.init.zeros_(theirs.weight), torch.nn.init.zeros_(theirs.bias)
    ours = nnx.Linear(3, 2, rngs=RNGS)
    fb.load_state_dict(ours, theirs.state_dict())
    report = parity.check(theirs, ours, X, **{**OPTIONS, "training_steps": 0})
    (case,) = report.cases.values()
    assert "every parameter is 0" in case["notes"][0]


class Frozen(torch.nn.BatchNorm1d):
    """Never in training mode."""

    def train(self, mode=True):
        return super().train(False)


@pytest.mark.parametrize("moves", [True, False])
def test_momenta_of_statistics_that_never_move_are_not_compared(quickly_compiled, moves):
    x = np.random.default_rng(0).standard_normal((6, 3), dtype=np.float32)
    reference = (torch.nn.BatchNorm1d if moves else Frozen)(3)

    class Port(nnx.Module):
        def __init__(self):
            options = {"momentum": 0.5, "epsilon": 1e-5, "rngs": nnx.Rngs(0)}
            self.norm = nnx.BatchNorm(3, **options)

        def __call__(self, x):
            return self.norm(x, use_running_average=None if moves else True)

    theirs = torch.nn.Sequential()
    theirs.add_module("norm", reference)
    report = parity.check(
        theirs, Port(), x, ignore=["*.num_batches_tracked"], training_steps=1, dtypes=["float64"]
    )
    assert report.passed == (not moves)
    assert ("momentum of running averages" in {row.name for row in report.rows}) == moves


class WithStreams(nnx.Module):
    """Holds random streams, which it may draw from."""

    def __init__(self, draws):
        self.rngs, self.draws = nnx.Rngs(0), draws
        self.fc = nnx.Linear(4, 4, rngs=self.rngs)
        self.drop = nnx.Dropout(0.5, rngs=self.rngs)

    def __call__(self, x):
        if self.draws and not self.drop.deterministic:
            x = x * jax.random.bernoulli(self.rngs.dropout(), 0.5, x.shape)
        return self.drop(self.fc(x))


@pytest.mark.parametrize("draws", [True, False])
def test_streams_that_are_only_held_are_no_dropout(quickly_compiled, lenient, draws):
    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.drop = torch.nn.Linear(4, 4), torch.nn.Dropout(0.5)

        def forward(self, x):
            return self.drop(self.fc(x))

    theirs, ours = Theirs(), WithStreams(draws)
    fb.load_state_dict(ours, theirs.state_dict())
    x = np.random.default_rng(0).standard_normal((6, 4), dtype=np.float32)
    report = parity.check(theirs, ours, x, dtypes=["float64"], training_steps=1)
    (facts,) = report.cases.values()
    words = "training mode is not run: the candidate draws from random streams outside"
    assert any(words in note for note in facts.get("notes", ())) == draws
    assert ("training mode" in {row.check for row in report.rows}) != draws
