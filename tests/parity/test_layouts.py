"""Stages of another layout whose shapes happen to be equal."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
import parity
from parity.layouts import in_another
from parity.results import Row
from parity.sides.pair import of_modules

from .two_layers import Port, Reference

RNGS = nnx.Rngs(0)
X = np.random.default_rng(0).standard_normal((4, 4, 3), dtype=np.float32)
OPTIONS = {"dtypes": ["float32"], "optimizers": [parity.optimizers.SGD], "training_steps": 1}


def check(theirs, ours):
    reference, port = Reference(theirs), Port(ours)
    fb.load_state_dict(port, reference.state_dict())
    return parity.check(reference, port, X, **OPTIONS)


def batch_major(m, x):
    return jnp.tanh(m.b(jax.nn.relu(m.a(x))))


def swapped(x):
    return x.swapaxes(0, 1)


LAYOUTS = {
    "time-major": lambda m, x: torch.tanh(m.b(torch.relu(m.a(swapped(x))))).swapaxes(0, 1),
    "joined time-major": lambda m, x: swapped(
        torch.tanh(m.b(torch.relu(m.a(swapped(x).reshape(16, 3))))).reshape(4, 4, 2)
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_right_stage_of_another_layout_is_left_out_with_a_note(quickly_compiled, name):
    joined = name.startswith("joined")

    def ours(m, x):
        return batch_major(m, x.reshape(16, 3)).reshape(4, 4, 2) if joined else batch_major(m, x)

    report = check(LAYOUTS[name], ours)
    report.assert_passed()
    (facts,) = report.cases.values()
    words = "stages in another layout or order of calls, left out: a, a.input, b, b.input"
    assert facts["notes"] == [words]


def test_a_layout_that_makes_the_output_wrong_fails(quickly_compiled):
    report = check(lambda m, x: batch(m, x, torch), lambda m, x: batch(m, swapped(x), jnp))
    assert report.first_divergence.name == "a.input"


@pytest.mark.parametrize(("between", "stage"), [(jax.nn.gelu, "b.input"), (jax.nn.relu, "output")])
def test_a_mistake_beside_a_right_stage_of_another_layout_has_its_place(
    quickly_compiled, between, stage
):
    def theirs(m, x):
        return m.b(torch.relu(m.a(swapped(x)).swapaxes(0, 1)))

    report = check(theirs, lambda m, x: m.b(between(m.a(x))) * (1 + (stage == "output")))
    assert report.first_divergence.name == stage
    (facts,) = report.cases.values()
    assert facts["notes"] == ["stages in another layout or order of calls, left out: a, a.input"]


def batch(m, x, framework):
    return framework.tanh(m.b(m.a(x)))


def test_a_wrong_stage_that_the_output_does_not_see_fails(quickly_compiled):
    """The ReLU gives 0 on both sides, and no gradient."""
    report = check(
        lambda m, x: torch.relu(-torch.abs(m.b(m.a(x)))),
        lambda m, x: jax.nn.relu(-jnp.abs(m.b(m.a(swapped(x))))),
    )
    assert report.first_divergence.name == "a.input"


def test_calls_in_another_order_are_left_out(quickly_compiled):
    """Two inputs of one encoder, as in a siamese network."""
    report = check(
        lambda m, x: m.b(torch.tanh(m.a(x)) - 2 * torch.tanh(m.a(x.flip(1)))),
        lambda m, x: m.b(-2 * jnp.tanh(m.a(x[:, ::-1])) + jnp.tanh(m.a(x))),
    )
    report.assert_passed()
    (facts,) = report.cases.values()
    assert facts["notes"] == [
        "stages in another layout or order of calls, left out: a, a.input, a[1], a[1].input"
    ]


class Convolution(nnx.Module):
    def __init__(self, **options):
        self.conv = nnx.Conv(4, 6, (3, 3), rngs=RNGS, **options)

    def __call__(self, x):
        return self.conv(x.transpose(0, 2, 3, 1))


class TorchConvolution(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 6, 3)

    def forward(self, x):
        return self.conv(x).permute(0, 2, 3, 1)


def test_another_padding_is_no_fault_of_the_input(quickly_compiled):
    """Flax pads by default, PyTorch does not."""
    reference, port = TorchConvolution(), Convolution()
    fb.load_state_dict(port, reference.state_dict())
    x = np.random.default_rng(0).standard_normal((2, 4, 7, 6), dtype=np.float32)
    with jax.numpy_dtype_promotion("standard"):
        report = parity.check(reference, port, x, training_steps=0)
    assert report.first_divergence.name == "conv"


def test_so_are_the_tokens_of_a_time_major_model(quickly_compiled):
    """Whole numbers, which have no gradient."""
    reference, port = torch.nn.Sequential(torch.nn.Embedding(9, 3)), Tokens()
    fb.load_state_dict(port, reference.state_dict(), names={"embedding": "0"})
    tokens = np.random.default_rng(0).integers(0, 9, (4, 4))
    options = {**OPTIONS, "names": {"embedding": "0"}, "training_steps": 0}
    parity.check(TimeMajor(reference), port, tokens, **options).assert_passed()


class Tokens(nnx.Module):
    def __init__(self):
        self.embedding = nnx.Embed(9, 3, rngs=RNGS)

    def __call__(self, tokens):
        return self.embedding(tokens)


class TimeMajor(torch.nn.Sequential):
    def __init__(self, of):
        super().__init__(*of)

    def forward(self, tokens):
        return super().forward(tokens.T).swapaxes(0, 1)


@pytest.mark.parametrize("determined", [True, False])
def test_of_an_array_that_is_not_determined_nothing_is_said(quickly_compiled, determined):
    reference, port = Reference(lambda m, x: m.b(m.a(x).mT.mT)), Port(lambda m, x: m.b(m.a(2 * x)))
    fb.load_state_dict(port, reference.state_dict())
    pair = of_modules(reference, port, {"x": X[0]})
    truth = pair.reference.forward(pair.reference.parameters, {"x": X[0]}, "float64")
    failing = Row(name="a", check="forward", dtype="float64", passed=False, bound=1e3)
    passing = Row(name="output", check="forward", dtype="float64", passed=True)
    rows = [replace(failing, determined=determined), passing]
    pair = replace(pair, loss="mean squared error")
    found = in_another(pair, {"x": X[0], "target": 0 * truth["output"]}, "float64", truth, rows)
    assert found == (frozenset({"a"}) if determined else frozenset())


@pytest.mark.parametrize("factor", [1, 2])
def test_calls_in_another_order_of_which_one_has_no_gradient(quickly_compiled, lenient, factor):
    """An LSTM for two sequences, whose outputs nothing reads: only its states."""

    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(3, 4, batch_first=True)

        def forward(self, a, b):
            return self.lstm(a)[1][0][0] - self.lstm(b)[1][0][0].detach()

    class FlaxTwice(nnx.Module):
        def __init__(self):
            self.lstm = fb.LSTM(3, 4, rngs=nnx.Rngs(0))

        def __call__(self, a, b):
            second = jax.lax.stop_gradient(self.lstm(b)[1][0][0])
            return factor * self.lstm(a)[1][0][0] - second

    reference, port = Twice(), FlaxTwice()
    fb.load_state_dict(port, reference.state_dict())
    report = parity.check(reference, port, (X, X[::-1].copy()), **OPTIONS)
    assert report.passed == (factor == 1)
    assert "Error" not in str(report)
