"""What either side does in training mode alone: in the output, the gradients, and what it keeps."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
import parity
from parity.diagnosis.locate import ONLY_TRAINING
from parity.sides.both_modes import RANDOM

RNGS = nnx.Rngs(0)
X = np.random.default_rng(0).standard_normal((6, 3), dtype=np.float32)
OPTIONS = {"dtypes": ["float64"], "optimizers": [parity.optimizers.SGD], "training_steps": 3}


class Reference(torch.nn.Module):
    def __init__(self, forward, drop):
        super().__init__()
        self.a, self.b = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(2))
        self.own, self.step = forward, 0
        self.drop = torch.nn.Dropout(0.3) if drop else None

    def forward(self, x):
        return self.own(self, x)


class Port(nnx.Module):
    def __init__(self, forward, drop):
        self.a, self.b = nnx.Linear(3, 4, rngs=RNGS), nnx.Linear(4, 2, rngs=RNGS)
        self.calls = nnx.BatchStat(jnp.zeros(2))
        self.drop = nnx.data(nnx.Dropout(0.3, rngs=nnx.Rngs(0)) if drop else None)
        self.own = forward

    def __call__(self, x):
        return self.own(self, x)


class Moded(Port):
    """Is told its mode by an attribute, which `train()` and `eval()` set."""

    deterministic = False


class Told(Port):
    """Is told its mode by a keyword."""

    def __call__(self, x, *, deterministic=True):
        return self.own(self, x, deterministic)


def check(theirs, ours, kind=Port, *, drop=False, **options):
    torch.manual_seed(0)
    reference, candidate = Reference(theirs, drop), kind(ours, drop)
    fb.load_state_dict(candidate, reference.state_dict())
    return parity.check(reference, candidate, X, **{**OPTIONS, **options})


def failing(report):
    return {row.check for row in report.rows if not row.passed}


def plain(m, x):
    return m.b(m.a(x))


def detached(m, x):
    y = m.a(x)
    return m.b((y + y.detach()) / 2 if m.training else y)


def hooked(m, x):
    y = m.a(x)
    if m.training and y.requires_grad:
        y.register_hook(lambda slope: 0.5 * slope)
    return m.b(y)


def counted(m, x):
    y = m.b(m.a(x) + m.calls.sum())
    if m.training:
        m.calls += 1
    return y


def stepped(m, x):
    y = m.b(m.a(x)) * (1 + 0.1 * m.step)
    m.step += m.training
    return y


def halved(m, x):
    return plain(m, x) * (0.5 if m.training else 1)


def flax_detached(m, x):
    y = m.a(x)
    return m.b(y if m.deterministic else (y + jax.lax.stop_gradient(y)) / 2)


def flax_counted(m, x):
    y = m.b(m.a(x) + m.calls[...].sum())
    if not m.deterministic:
        m.calls[...] = m.calls[...] + 1
    return y


def flax_halved(m, x):
    return plain(m, x) * (1 if m.deterministic else 0.5)


@pytest.mark.parametrize("theirs", [detached, hooked, counted, stepped, halved])
def test_what_only_the_reference_does_in_training_mode_fails_there(quickly_compiled, theirs):
    report = check(theirs, plain)
    assert "training" in failing(report)
    assert theirs is counted or ONLY_TRAINING in report.first_divergence.note


@pytest.mark.parametrize("ours", [flax_detached, flax_counted, flax_halved])
def test_what_only_the_candidate_does_in_training_mode_fails_there(quickly_compiled, ours):
    report = check(plain, ours, Moded)
    assert "training" in failing(report)
    assert ours is flax_counted or ONLY_TRAINING in report.first_divergence.note


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [(detached, flax_detached), (counted, flax_counted), (halved, flax_halved)],
)
def test_what_both_do_in_training_mode_passes(quickly_compiled, theirs, ours):
    report = check(theirs, ours, Moded)
    report.assert_passed()
    assert not notes(report)


def test_without_training_it_is_noted(quickly_compiled):
    report = check(halved, plain, training_steps=0)
    report.assert_passed()
    (note,) = notes(report)
    assert note == "compared only by training: what else training mode does, such as statistics"


def notes(report):
    (facts,) = report.cases.values()
    return [words for words in facts.get("notes", ()) if "dropout rate" not in words]


def seldom(draw):
    def forward(m, x):
        return plain(m, x) * (0.5 if m.training and draw() < 1e-6 else 1)

    return forward


GENERATOR = torch.Generator()
DRAWS = {
    "Python": random.random,
    "NumPy": np.random.rand,
    "PyTorch": lambda: torch.rand(()),
    "a generator": lambda: torch.rand((), generator=GENERATOR),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_a_reference_that_draws_is_random_even_if_that_seldom_matters(quickly_compiled, draw):
    state = torch.get_rng_state()
    report = check(seldom(DRAWS[draw]), plain)
    report.assert_passed()
    (words,) = report.cases.values()
    assert any(RANDOM in note for note in words["notes"])
    assert torch.equal(torch.get_rng_state(), state)


def dropped(m, x):
    return m.b(m.drop(m.a(x)))


def told(m, x, deterministic):
    return m.b(m.drop(m.a(x), deterministic=deterministic))


def test_a_candidate_that_is_told_its_mode_by_a_keyword(quickly_compiled):
    report = check(dropped, told, Told, drop=True)
    report.assert_passed()
    assert not notes(report)


@pytest.mark.parametrize(
    "wrong",
    [lambda m, x, deterministic: m.b(m.a(x)), lambda m, x, deterministic: told(m, x, True)],
)
def test_a_candidate_that_ignores_the_keyword_fails(quickly_compiled, wrong):
    assert failing(check(dropped, wrong, Told, drop=True)) == {"training mode"}


def through(m, x):
    y = m.a(x)
    return m.b(y + jax.lax.stop_gradient(m.drop(y) - y))


def test_a_gradient_that_does_not_go_through_the_dropout_fails(quickly_compiled):
    report = check(dropped, through, drop=True)
    rows = [row for row in report.rows if not row.passed]
    assert {row.check for row in rows} == {"training mode"}
    assert {row.name for row in rows} == {"a.weight", "a.bias", "x"}
    assert "with fixed numbers for every Dropout, the gradient differs" in rows[0].note


@pytest.mark.parametrize(
    "ours",
    [
        lambda m, x: m.b(m.drop(m.a(x), rngs=jax.random.key(0))),
        lambda m, x: m.b(m.drop(m.a(x), rngs=nnx.Rngs(0))),
    ],
)
def test_a_mask_that_is_the_same_in_every_call_fails(quickly_compiled, ours):
    report = check(dropped, ours, drop=True)
    (row,) = (row for row in report.rows if not row.passed)
    assert (row.check, row.name) == ("training mode", "dropout masks")
    assert "calls [1] of its Dropout draw the mask that they drew before" in row.note


def test_the_call_whose_mask_is_the_same_is_named(quickly_compiled):
    def theirs(m, x):
        return m.drop(m.b(m.drop(m.a(x))))

    def ours(m, x):
        return m.drop(m.b(m.drop(m.a(x))), rngs=jax.random.key(0))

    (row,) = (row for row in check(theirs, ours, drop=True).rows if not row.passed)
    assert "calls [2] of its Dropout" in row.note


def test_a_dropout_that_jax_cannot_draw_from_fails(quickly_compiled):
    def ours(m, x):
        return m.b(jax.vmap(m.drop)(m.a(x)))

    (row,) = (row for row in check(dropped, ours, drop=True).rows if not row.passed)
    assert (row.check, row.note[:19]) == ("training mode", "the candidate raise")


def test_dropout_before_a_maximum_is_not_dropout_after_it(quickly_compiled):
    def theirs(m, x):
        return m.b(m.drop(m.a(x)[:, None].repeat(1, 4, 1)).amax(2, keepdim=True).expand(-1, -1, 4))

    def ours(m, x):
        y = jnp.repeat(m.a(x)[:, None], 4, 1)
        return m.b(jnp.broadcast_to(m.drop(y.max(2, keepdims=True)), y.shape))

    assert failing(check(theirs, ours, drop=True)) == {"training mode"}


def test_dropout_in_another_layout_is_noted(quickly_compiled):
    report = check(dropped, lambda m, x: m.b(m.drop(m.a(x).T).T), drop=True)
    report.assert_passed()
    (note,) = notes(report)
    assert note.startswith("Dropout has another layout or order of calls")
