"""Dropout in training mode: where it is called, its rate, and which elements share a mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx
from torch.nn import functional

import flax_bilstm as fb
import parity
from parity.sides.both_modes import Shown, shown_by
from parity.sides.torch_side import TorchSide

from ..two_layers import Port, Reference

RNGS = nnx.Rngs(0)
X = np.random.default_rng(0).standard_normal((4, 5, 3), dtype=np.float32)
OPTIONS = {"dtypes": ["float64"], "optimizers": [parity.optimizers.SGD], "training_steps": 1}


def usual(m, x):
    return m.b(m.drop(torch.relu(m.a(x))))


def over_time(m, x):
    return m.b(m.drop(torch.relu(m.a(x)).mT).mT)


def locked(m, x):
    y = torch.relu(m.a(x))
    if m.training:
        y = torch.empty(4, 1, 4, dtype=x.dtype).bernoulli_(0.7).div(0.7) * y
    return m.b(y)


def by_hand(m, x):
    y = torch.relu(m.a(x))
    return m.b(y * torch.bernoulli(torch.full_like(y, 0.7)) / 0.7 if m.training else y)


def drop(rate=0.3, **options):
    return nnx.Dropout(rate, rngs=RNGS, **options)


def port(m, x):
    return m.b(m.drop(jax.nn.relu(m.a(x))))


def check(reference, candidate, **options):
    fb.load_state_dict(candidate, reference.state_dict())
    return parity.check(reference, candidate, X, **{**OPTIONS, **options})


TORCH = torch.nn.Dropout(0.3)
RIGHT = {
    "the same": (Reference(usual, TORCH), Port(port, drop())),
    "before a ReLU": (
        Reference(usual, TORCH), Port(lambda m, x: m.b(jax.nn.relu(m.drop(m.a(x)))), drop()),
    ),
    "in place": (
        Reference(lambda m, x: m.b(m.drop(m.a(x))), torch.nn.Dropout(0.3, inplace=True)),
        Port(lambda m, x: m.b(m.drop(m.a(x))), drop()),
    ),
    "a function": (
        Reference(lambda m, x: m.b(functional.dropout(torch.relu(m.a(x)), 0.3, m.training))),
        Port(port, drop()),
    ),
    "by hand": (Reference(locked), Port(port, drop(broadcast_dims=(1,)))),
    "one mask for all steps": (
        Reference(over_time, torch.nn.Dropout1d(0.3)), Port(port, drop(broadcast_dims=(1,))),
    ),
    "of a gate": (
        Reference(lambda m, x: m.b(m.drop(torch.sigmoid(m.a(x))) * m.a(x).tanh()), TORCH),
        Port(lambda m, x: m.b(m.drop(jax.nn.sigmoid(m.a(x)) * jnp.tanh(m.a(x)))), drop()),
    ),
    "of a negative in another layout": (
        Reference(lambda m, x: m.b(-m.drop(m.a(x))), TORCH),
        Port(lambda m, x: m.b(m.drop(-m.a(x).swapaxes(0, 1)).swapaxes(0, 1)), drop()),
    ),
    "by hand, divided afterwards": (Reference(by_hand), Port(port, drop())),
    "of rate 1": (Reference(usual, torch.nn.Dropout(1.0)), Port(port, drop(1.0))),
    "in a loop": (
        Reference(lambda m, x: m.b(torch.stack([m.drop(y) for y in m.a(x).unbind(1)], 1)), TORCH),
        Port(lambda m, x: m.b(m.drop(m.a(x))), drop()),
    ),
    "in an LSTM": (
        torch.nn.LSTM(3, 4, 2, dropout=0.2, bidirectional=True, batch_first=True),
        fb.LSTM(3, 4, num_layers=2, dropout=0.2, bidirectional=True, rngs=RNGS),
    ),
    "a rate that an LSTM of one layer never uses": (
        torch.nn.LSTM(3, 4, 1, batch_first=True),
        fb.LSTM(3, 4, num_layers=1, dropout=0.2, rngs=RNGS),
    ),
}  # fmt: skip
WRONG = {
    "left out": Port(lambda m, x: m.b(jax.nn.relu(m.a(x)))),
    "never called": Port(lambda m, x: m.b(jax.nn.relu(m.a(x))), drop()),
    "another rate": Port(port, drop(0.4)),
    "deterministic": Port(
        lambda m, x: m.b(m.drop(jax.nn.relu(m.a(x)), deterministic=True)), drop()
    ),
    "called twice": Port(lambda m, x: m.b(m.drop(m.drop(jax.nn.relu(m.a(x))))), drop()),
    "after the output": Port(lambda m, x: m.drop(m.b(jax.nn.relu(m.a(x)))), drop()),
    "before the input": Port(lambda m, x: m.b(jax.nn.relu(m.a(m.drop(x)))), drop()),
    "one mask for all steps": Port(port, drop(broadcast_dims=(1,))),
}


@pytest.mark.parametrize("case", RIGHT)
def test_dropout_that_is_where_it_should_be_passes(quickly_compiled, case):
    report = check(*RIGHT[case])
    report.assert_passed()
    assert not [words for facts in report.cases.values() for words in facts.get("notes", ())
                if "training mode" in words]  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_dropout_that_is_not_fails_in_training_mode_alone(quickly_compiled, case):
    report = check(Reference(usual, TORCH), WRONG[case])
    rows = [(row.check, row.name) for row in report.rows if not row.passed]
    assert rows == [("training mode", "dropout")]
    assert "with fixed numbers for every Dropout, the output differs" in str(report)
    ours = {"another rate": "[0.4] in the candidate", "left out": "none in the candidate"}
    rates = f"the reference, {ours[case]}" if case in ours else "both"
    assert report.first_divergence.note.endswith(f"dropout rate [0.3] in {rates}")


SQUARE = X[:, :4]
HARD = {
    "another axis of the same size shares it": (
        Reference(over_time, torch.nn.Dropout1d(0.3)), Port(port, drop(broadcast_dims=(2,))),
    ),
    "none is shared": (Reference(over_time, torch.nn.Dropout1d(0.3)), Port(port, drop())),
    "one call for two": (
        Reference(lambda m, x: m.b(m.drop(m.a(x)) + m.drop(m.a(x).tanh())), TORCH),
        Port(lambda m, x: m.b(m.drop(m.a(x) + jnp.tanh(m.a(x)))), drop()),
    ),
    "one mask for all steps of a loop": (
        Reference(lambda m, x: m.b(torch.stack([m.drop(y) for y in m.a(x).unbind(1)], 1)), TORCH),
        Port(lambda m, x: m.b(m.drop(m.a(x))), drop(broadcast_dims=(1,))),
    ),
    "of rate 1, and left out": (
        Reference(usual, torch.nn.Dropout(1.0)),
        Port(lambda m, x: m.b(jax.nn.relu(m.a(x)))),
    ),
    "another rate by hand": (Reference(by_hand), Port(port, drop(0.5))),
    "AlphaDropout": (Reference(usual, torch.nn.AlphaDropout(0.3)), Port(port, drop())),
    "another rate in an LSTM": (
        torch.nn.LSTM(3, 4, 2, dropout=0.2, batch_first=True),
        fb.LSTM(3, 4, num_layers=2, dropout=0.1, rngs=RNGS),
    ),
    "left out before a normalization": (
        Reference(lambda m, x: m.b(functional.normalize(m.drop(m.a(x).relu()), dim=-1)), TORCH),
        Port(lambda m, x: m.b(normalized(jax.nn.relu(m.a(x))))),
    ),
    "after a product of positive numbers, not before": (
        Reference(lambda m, x: m.drop(m.a(x).relu()) @ m.b.weight.T.relu() + 0 * m.b.bias, TORCH),
        Port(
            lambda m, x: m.drop(jax.nn.relu(m.a(x)) @ jax.nn.relu(m.b.kernel[...]))
            + 0 * m.b.bias[...][None, None],
            drop(),
        ),
    ),
}  # fmt: skip


def normalized(y):
    return y / jnp.maximum(jnp.linalg.norm(y, axis=-1, keepdims=True), 1e-12)


@pytest.mark.parametrize("case", HARD)
def test_dropout_that_is_nearly_right_fails(quickly_compiled, case):
    theirs, ours = HARD[case]
    fb.load_state_dict(ours, theirs.state_dict())
    report = parity.check(theirs, ours, SQUARE, **OPTIONS)
    assert {row.check for row in report.rows if not row.passed} == {"training mode"}


def test_a_mask_that_is_not_multiplied_by_is_noted(quickly_compiled):
    def by_hand(m, x):
        y = m.a(x)
        if m.training:
            y = y.masked_fill(torch.bernoulli(torch.full_like(y, 0.7)) == 0, 0.0)
        return m.b(y)

    report = check(Reference(by_hand), Port(lambda m, x: m.b(m.a(x))))
    (facts,) = report.cases.values()
    assert "the reference draws a mask that it does not multiply by" in " ".join(facts["notes"])


def test_attention_with_another_kernel_in_training_mode(quickly_compiled):
    reference = torch.nn.TransformerEncoderLayer(4, 2, 8, dropout=0.25, batch_first=True)
    inputs = {"x": SQUARE[..., [0, 1, 2, 0]]}
    assert shown_by(TorchSide(reference), inputs) == Shown(masks=4, changed=frozenset())


def test_without_training_it_is_noted_and_not_compared(quickly_compiled):
    report = check(Reference(usual, TORCH), WRONG["another rate"], training_steps=0)
    report.assert_passed()
    (facts,) = report.cases.values()
    words = "compared only by training: dropout rate [0.3] in the reference, [0.4] in the candidate"
    assert words in facts["notes"]


def test_a_difference_that_is_meant_can_be_acknowledged(quickly_compiled):
    known = {"dropout": "the port is for inference"}
    check(Reference(usual, TORCH), WRONG["left out"], known=known).assert_passed()


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
