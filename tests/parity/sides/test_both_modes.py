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
from parity.in_training_mode import DIFFERENT
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


def check(theirs, ours, kind=Port, *, drop=False, x=X, **options):
    torch.manual_seed(0)
    reference, candidate = Reference(theirs, drop), kind(ours, drop)
    fb.load_state_dict(candidate, reference.state_dict())
    return parity.check(reference, candidate, x, **{**OPTIONS, **options})


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
    words = ONLY_TRAINING if theirs is stepped else DIFFERENT
    assert theirs is counted or words in report.first_divergence.note


@pytest.mark.parametrize("ours", [flax_detached, flax_counted, flax_halved])
def test_what_only_the_candidate_does_in_training_mode_fails_there(quickly_compiled, ours):
    report = check(plain, ours, Moded)
    assert "training" in failing(report)
    assert ours is flax_counted or DIFFERENT in report.first_divergence.note


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
    assert "calls [1] of its Dropout draw a mask that was drawn before" in row.note


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
        return m.b(m.drop(m.a(x)).amax(1, keepdim=True).expand(-1, 4))

    def ours(m, x):
        return m.b(jnp.broadcast_to(m.drop(m.a(x).max(1, keepdims=True)), (len(x), 4)))

    x = np.random.default_rng(0).standard_normal((40, 3), dtype=np.float32)
    assert failing(check(theirs, ours, drop=True, x=x)) == {"training mode"}


def test_dropout_in_another_layout_is_noted(quickly_compiled):
    report = check(dropped, lambda m, x: m.b(m.drop(m.a(x).T).T), drop=True)
    report.assert_passed()
    (note,) = notes(report)
    assert note.startswith("Dropout has another layout or order of calls")


def reversed_input(m, x):
    return plain(m, 2 * x.detach() - x if m.training else x)


def collecting(m, x):
    """Keeps what it has seen in a list, and uses it from the second call on."""
    seen = m.__dict__.setdefault("seen", [])
    y = plain(m, x) + (sum(seen) if m.training else 0)
    if m.training:
        seen.append(y.detach().mean())
    return y


@pytest.mark.parametrize("theirs", [reversed_input, collecting])
def test_so_do_gradients_of_inputs_and_what_is_kept_elsewhere(quickly_compiled, theirs):
    report = check(theirs, plain)
    assert failing(report) <= {"training mode", "training"}
    assert not report.passed


def asking_its_dropout(m, x):
    if not m.drop.deterministic:
        m.calls[...] = m.calls[...] + 1
    return plain(m, x)


def writing_its_weights(m, x):
    y = plain(m, x)
    m.b.kernel[...] = 0.9 * m.b.kernel[...]
    return y


def test_a_candidate_may_ask_its_dropout_for_the_mode(quickly_compiled):
    assert not check(plain, asking_its_dropout, drop=True).passed


def test_weights_that_a_call_writes_are_trained_on(quickly_compiled):
    report = check(plain, writing_its_weights)
    assert failing(report) == {"training"}
    assert "flax_model changes b.kernel, so only first calls are compared" in notes(report)


class Caching(Port):
    def __init__(self, forward, drop):
        super().__init__(forward, drop)
        self.cache = nnx.data(jnp.zeros(2))


def caching(m, x):
    y = plain(m, x)
    y = y + m.cache[None].astype(y.dtype)
    m.cache = y.mean(0)
    return y


def test_arrays_that_a_call_changes_are_noted(quickly_compiled):
    report = check(plain, caching, Caching)
    assert notes(report) == ["flax_model changes cache, so only first calls are compared"]


class ToldReference(Reference):
    def forward(self, x, train=False):
        return self.own(self, x, train)


class ToldPort(Port):
    def __call__(self, x, train=False):
        return self.own(self, x, train)


@pytest.mark.parametrize("right", [True, False])
def test_a_reference_that_is_told_its_mode_by_a_keyword(quickly_compiled, right):
    def theirs(m, x, train):
        return plain(m, x) * (0.5 if train else 1)

    def ours(m, x, train):
        return plain(m, x) * (0.5 if train and right else 1)

    reference, candidate = ToldReference(theirs, False), ToldPort(ours, False)
    fb.load_state_dict(candidate, reference.state_dict())
    assert parity.check(reference, candidate, X, **OPTIONS).passed == right


def squares(output, inputs):
    return sum((array**2).sum() for array in (output if isinstance(output, tuple) else (output,)))


def with_another_head(m, x):
    y = m.a(x)
    return (y, m.b(y)) if m.training else y


def flax_with_another_head(m, x):
    y = m.a(x)
    return y if m.deterministic else (y, m.b(y))


def test_a_head_that_only_training_mode_has(quickly_compiled):
    loss = parity.Loss("squares", squares, squares)
    check(with_another_head, flax_with_another_head, Moded, loss=loss).assert_passed()
    report = check(with_another_head, flax_with_another_head, Moded)
    report.assert_passed()
    assert any("its output has other shapes in it" in note for note in notes(report))
    assert not check(with_another_head, lambda m, x: m.a(x), Moded, loss=loss).passed


def after_its_dropout(m, x):
    y = m.drop(m.a(x))
    if m.training:
        m.calls.copy_(y.detach().square().mean(0)[:2])
    return m.b(y)


@pytest.mark.parametrize("right", [True, False])
def test_what_is_kept_of_a_dropout(quickly_compiled, right):
    def ours(m, x):
        before = m.a(x)
        y = m.drop(before)
        if not m.drop.deterministic:
            m.calls[...] = jnp.square(y if right else before).mean(0)[:2]
        return m.b(y)

    report = check(after_its_dropout, ours, drop=True)
    wrong = {("training mode", "calls after")}
    assert {(r.check, r.name) for r in report.rows if not r.passed} == (set() if right else wrong)


def test_hooks_of_parameters_are_those_of_the_reference(quickly_compiled):
    reference, candidate = Reference(plain, False), Port(plain, False)
    fb.load_state_dict(candidate, reference.state_dict())
    reference.a.weight.register_hook(lambda slope: 0 * slope)
    assert not parity.check(reference, candidate, X, **OPTIONS).passed
