"""What only training mode shows: Dropout's rate, BatchNorm's momentum and statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
import parity
from parity.sides import pair
from parity.sides.training_mode import MOMENTUM, NOTE, settings

RNGS = nnx.Rngs(0)
X = np.random.default_rng(0).standard_normal((6, 3), dtype=np.float32)
OPTIONS = {"dtypes": ["float64"], "optimizers": [parity.optimizers.SGD], "training_steps": 3}


@pytest.fixture(autouse=True)
def standard_promotion():
    """Flax's normalizations rely on it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


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


def test_a_momentum_in_the_other_convention_is_named_and_its_statistics_fail(quickly_compiled):
    report = check(torch_norm(), flax_norm(momentum=0.1))
    first = report.first_divergence
    assert (first.check, first.name) == ("training mode", "momentum of running averages")
    assert "[0.1] in the reference, [0.9] in the candidate, at 1; PyTorch's 0.1 is " in first.note
    assert {name for check, name in failing(report) if check == "training"} == {
        "1.running_mean", "1.running_var",
    }  # fmt: skip


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


@pytest.mark.parametrize(("factor", "wrong"), [(1.0, []), (5 / 6, [("training", "1.running_var")])])
def test_statistics_of_a_norm_by_hand_are_compared_as_pytorch_has_them(
    quickly_compiled, factor, wrong
):
    ours = Ours(nnx.Linear(3, 4, rngs=RNGS), OwnNorm(factor))
    report = check(torch_norm(), ours, ignore=["1.num_batches_tracked"])
    assert failing(report) == wrong


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        (0.5, 0.5, None),
        (0.5, 0.1, "[0.5] in the reference, [0.1] in the candidate"),
        (0.5, None, "[0.5] in the reference, none in the candidate"),
        (None, 0.5, "none in the reference, [0.5] in the candidate"),
    ],
)
def test_dropout_rates_are_compared_where_something_is_trained(
    quickly_compiled, theirs, ours, words
):
    reference = torch_norm()
    reference.append(torch.nn.Identity() if theirs is None else torch.nn.Dropout(theirs))
    candidate = flax_norm(0.9, *([] if ours is None else [nnx.Dropout(ours, rngs=RNGS)]))
    report = check(reference, candidate)
    assert failing(report) == ([("training mode", "dropout rate")] if words else [])
    assert words is None or words in report.first_divergence.note
    quick = check(reference, candidate, training_steps=0)
    quick.assert_passed()
    (case,) = quick.cases.values()
    assert case["notes"][-2].startswith("compared only by training: dropout rate")


def test_the_dropout_between_the_layers_of_an_lstm_counts():
    theirs = torch.nn.LSTM(2, 3, num_layers=2, dropout=0.25)
    (found,) = settings(theirs, fb.LSTM(2, 3, num_layers=2, dropout=0.25, rngs=RNGS), {})
    assert found.words == "dropout rate [0.25] in both"


def lstms(kind, second, **options):
    return [kind(2, 2, num_layers=2, dropout=rate, **options) for rate in (0.25, second)]


def drops(*rates):
    return Ours(*(nnx.Dropout(rate, rngs=RNGS) for rate in rates))


def torch_drops(*rates):
    return torch.nn.Sequential(*map(torch.nn.Dropout, rates))


@pytest.mark.parametrize(
    ("theirs", "ours", "paired", "words"),
    [
        (torch_drops(0.5, 0.5), drops(0.5, 0.5), True, "[0.5] in both"),
        (torch_drops(0.5, 0.5), drops(0.5, 0.0), True, "[0.5, 0.5] in the reference, [0.5] in the "
         "candidate, at 1"),
        (torch_drops(0.5, 0.1), drops(0.1, 0.5), True, "[0.1, 0.5] in the reference, [0.5, 0.1] in "
         "the candidate, at 0, 1"),
        (torch_drops(0.5), drops(0.5, 0.5), False, "[0.5] in both"),  # one is called twice
        (torch_drops(0.5), drops(0.5, 0.5), True, "[0.5] in both"),
        (torch_drops(0.5, 0.5), drops(0.5), True, "[0.5] in both"),
        (torch_drops(0.5), drops(0.5, 0.1), True, "[0.5] in the reference, [0.5, 0.1] in the "
         "candidate, at parts.1"),
        (torch.nn.Sequential(*lstms(torch.nn.LSTM, 0.25)), Ours(*lstms(fb.LSTM, 0.0, rngs=RNGS)),
         True, "[0.25, 0.25] in the reference, [0.25] in the candidate, at 1"),
    ],
)  # fmt: skip
def test_dropout_rates_are_compared_layer_by_layer_where_names_pair_them(
    theirs, ours, paired, words
):
    both = range(min(len(ours.parts), len(theirs))) if paired else ()
    stages = {str(i): f"parts.{i}" for i in both}
    (found,) = settings(theirs, ours, stages)
    assert found.words == f"dropout rate {words}"
    assert found.equal == words.endswith("both")


class Named(nnx.Module):
    """A Dropout under another name, called first, and one, called second."""

    def __init__(self, first, second):
        self.z, self.a = nnx.Dropout(first, rngs=RNGS), nnx.Dropout(second, rngs=RNGS)

    def __call__(self, x):
        return self.a(self.z(x))


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ((0.5, 0.1), "[0.1, 0.5] in both"),
        ((0.1, 0.5), "[0.1, 0.5] in the reference, [0.5, 0.1] in the candidate, at 0, 1"),
    ],
)
def test_dropouts_of_other_names_are_paired_in_the_order_of_their_calls(rates, words):
    sides = pair.of_modules(torch_drops(0.5, 0.1), Named(*rates), {"x": X})
    assert [setting.words for setting in sides.settings] == [f"dropout rate {words}"]


def test_two_momenta_that_are_exchanged_are_found():
    norms = [torch.nn.BatchNorm1d(3, momentum=momentum) for momentum in (0.1, 0.2)]
    ours = [nnx.BatchNorm(3, momentum=momentum, rngs=RNGS) for momentum in (0.8, 0.9)]
    stages = {"0": "parts.0", "1": "parts.1"}
    (found,) = settings(torch.nn.Sequential(*norms), Ours(*ours), stages)
    assert "[0.1, 0.2] in the reference, [0.2, 0.1] in the candidate, at 0, 1" in found.words
    (found,) = settings(torch.nn.Sequential(*norms), Ours(*ours[::-1]), stages)
    assert found.words == f"{MOMENTUM} [0.1, 0.2] in both"


class Functional(torch.nn.Sequential):
    def forward(self, x):
        return torch.nn.functional.dropout(super().forward(x), 0.5, self.training)


class Noisy(nnx.Module):
    def __init__(self):
        self.rngs = nnx.Rngs(0)

    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    ("theirs", "ours", "why"),
    [
        (Functional, flax_norm, "the reference is random in it"),
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


def test_a_function_is_told_what_was_not_run(quickly_compiled):
    def forward(state, x):
        return x @ state["0.weight"].T

    theirs = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False), torch.nn.Dropout(0.3))
    report = parity.check(theirs, forward, X, **OPTIONS)
    report.assert_passed()
    (case,) = report.cases.values()
    assert case["notes"] == [
        "training mode is not run, since the candidate is a function: Dropout [0.3]"
    ]


def test_parameters_that_are_all_zero_are_told(quickly_compiled):
    theirs = torch.nn.Linear(3, 2)
    torch.nn.init.zeros_(theirs.weight), torch.nn.init.zeros_(theirs.bias)
    ours = nnx.Linear(3, 2, rngs=RNGS)
    fb.load_state_dict(ours, theirs.state_dict())
    report = parity.check(theirs, ours, X, **{**OPTIONS, "training_steps": 0})
    (case,) = report.cases.values()
    assert "every parameter is 0" in case["notes"][0]
