"""What either side does in training mode alone: in the output, the gradients, and what it keeps."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import parity
from parity.diagnosis.locate import ONLY_TRAINING
from parity.in_training_mode import DIFFERENT
from parity.sides.both_modes import RANDOM

from .. import two_layers
from ..two_layers import failing, notes, plain


class Reference(two_layers.Reference):
    def __init__(self, forward, drop):
        super().__init__(forward, torch.nn.Dropout(0.3) if drop else None)
        self.register_buffer("calls", torch.zeros(2))
        self.step = 0


class Port(two_layers.Port):
    def __init__(self, forward, drop):
        super().__init__(forward, nnx.Dropout(0.3, rngs=nnx.Rngs(0)) if drop else None)
        self.calls = nnx.BatchStat(jnp.zeros(2))


class Moded(Port):
    """Is told its mode by an attribute, which `train()` and `eval()` set."""

    deterministic = False


def check(theirs, ours, kind=Port, *, drop=False, **options):
    return two_layers.check(Reference(theirs, drop), kind(ours, drop), **options)


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


def test_a_candidate_may_ask_its_dropout_for_the_mode(quickly_compiled):
    assert not check(plain, asking_its_dropout, drop=True).passed


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
    with pytest.raises(ValueError, match="its output has other shapes in it; give a loss= that"):
        check(with_another_head, flax_with_another_head, Moded)
    report = check(with_another_head, flax_with_another_head, Moded, training_steps=0)
    report.assert_passed()
    assert any("its output has other shapes in it" in note for note in notes(report))
    assert not check(with_another_head, lambda m, x: m.a(x), Moded, loss=loss).passed


def test_a_loss_of_several_shapes_with_a_target(quickly_compiled):
    def of_all(output, inputs):
        outputs = output if isinstance(output, tuple) else (output,)
        return sum(((y - inputs["target"].mean()) ** 2).mean() for y in outputs)

    loss = parity.Loss("all", of_all, of_all, targeted=True)
    check(with_another_head, flax_with_another_head, Moded, loss=loss).assert_passed()


def test_attention_without_dropout_is_not_random(quickly_compiled):
    def theirs(m, x):
        y = m.a(x)[:, None]  # one head
        return m.b(torch.nn.functional.scaled_dot_product_attention(y, y, y)[:, 0])

    def ours(m, x):
        y = m.a(x)
        return m.b(jax.nn.softmax(y @ y.swapaxes(-1, -2) / 2, axis=-1) @ y)

    x = np.random.default_rng(0).standard_normal((2, 5, 3), dtype=np.float32)
    report = two_layers.check(two_layers.Reference(theirs), two_layers.Port(ours), x)
    report.assert_passed()
    assert not any("training mode is not run" in note for note in notes(report))


class Remembering(two_layers.Reference):
    """Changes a buffer in evaluation mode."""

    def __init__(self):
        super().__init__(None)
        self.register_buffer("memory", torch.ones(4))

    def forward(self, x):
        y = self.a(x) + self.memory
        self.memory = 0.5 * self.memory + y.detach().mean(0)
        return self.b(y)


def test_what_a_call_of_the_reference_changes_in_evaluation_is_noted(lenient, quickly_compiled):
    class Forgetful(two_layers.Port):
        def __init__(self):
            super().__init__(None)
            self.memory = nnx.BatchStat(jnp.zeros(4))

        def __call__(self, x):
            return self.b(self.a(x) + self.memory[...])

    report = two_layers.check(Remembering(), Forgetful(), training_steps=0)
    report.assert_passed()
    assert "torch_model changes memory, so only first calls are compared" in notes(report)


class Blending(two_layers.Reference):
    """Blends two outputs in training mode, by a weight that is still 0."""

    def __init__(self):
        super().__init__(None)
        self.register_buffer("alpha", torch.tensor(0.0))

    def forward(self, x):
        y = self.b(self.a(x))
        return (1 - self.alpha) * y.tanh() + self.alpha * y if self.training else y.tanh()


@pytest.mark.parametrize("right", [True, False])
def test_what_training_mode_does_with_a_buffer_of_0(quickly_compiled, right):
    class BlendingPort(two_layers.Port):
        deterministic = False

        def __init__(self):
            super().__init__(None)
            self.alpha = nnx.BatchStat(jnp.zeros(()))

        def __call__(self, x):
            y, alpha = plain(self, x), self.alpha[...]
            blended = (1 - alpha) * jnp.tanh(y) + alpha * y
            return blended if right and not self.deterministic else jnp.tanh(y)

    port = BlendingPort()
    if not right:
        type(port).deterministic = nnx.static(True)
    assert failing(two_layers.check(Blending(), port)) == (set() if right else {"training mode"})


def test_modes_and_gradients_that_no_run_has_are_noted(quickly_compiled):
    class Words(two_layers.Reference):
        def __init__(self):
            super().__init__(None)
            self.words = torch.nn.Embedding(5, 3, sparse=True)

        def forward(self, tokens):
            return self.b(self.a(self.words(tokens)))

    class PortOfWords(two_layers.Port):
        def __init__(self):
            super().__init__(None)
            self.words = nnx.Embed(5, 3, rngs=nnx.Rngs(0))

        def __call__(self, tokens):
            return plain(self, self.words(tokens))

    reference = Words().train()
    reference.a.eval()
    assert notes(two_layers.check(reference, PortOfWords(), np.array([0, 3, 1]))) == [
        "in torch_model, some modules are in another mode, but each run is in one for all: a",
        "the gradients of words are dense here, and sparse in torch_model",
    ]
