"""What a call of the candidate changes: weights are trained on, and the report notes all of it."""

import jax
import jax.numpy as jnp
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

from ..two_layers import Port, Reference, check, failing, notes, plain


def writing_its_weights(m, x):
    y = plain(m, x)
    m.b.kernel[...] = 0.9 * m.b.kernel[...]
    return y


def test_weights_that_a_call_writes_are_trained_on(quickly_compiled):
    report = check(Reference(plain), Port(writing_its_weights))
    assert failing(report) == {"training"}
    assert "flax_model changes b.kernel, so only first calls are compared" in notes(report)


class Caching(Port):
    def __init__(self, forward):
        super().__init__(forward)
        self.cache = nnx.data(jnp.zeros(2))


def caching(m, x):
    y = plain(m, x)
    y = y + m.cache[None].astype(y.dtype)
    m.cache = y.mean(0)
    return y


def test_arrays_that_a_call_changes_are_noted(quickly_compiled):
    report = check(Reference(plain), Caching(caching))
    assert notes(report) == ["flax_model changes cache, so only first calls are compared"]


class Recomputing(Port):
    def __call__(self, x):
        return nnx.remat(lambda m, x: plain(m, x))(self, x)


def test_what_a_transformation_gives_back_unchanged_is_no_change(quickly_compiled):
    report = check(Reference(plain), Recomputing(None))
    report.assert_passed()
    assert not any("flax_model changes" in note for note in notes(report))


class Counting(Port):
    """Counts its calls in training mode."""

    deterministic = False

    def __init__(self, forward):
        super().__init__(forward)
        self.count = 0

    def __call__(self, x):
        if not self.deterministic:
            self.count += 1
        return plain(self, x) * 0.5**self.count


def test_an_attribute_that_training_mode_changes_is_noted(quickly_compiled):
    report = check(Reference(lambda m, x: plain(m, x) * (0.5 if m.training else 1)), Counting(None))
    report.assert_passed()  # of every step, it is the first call
    (words,) = notes(report)
    assert words.startswith("in training mode flax_model changes count, which is no variable")


class Holding(Port):
    """Holds a tuple of what it computed."""

    def __init__(self, forward):
        super().__init__(forward)
        self.held = nnx.data((0.0, 1))

    def __call__(self, x):
        y = plain(self, x)
        self.held = nnx.data((y.sum(), 1))
        return y


def test_a_container_of_what_is_computed_is_compared_by_its_parts(quickly_compiled):
    report = check(Reference(plain), Holding(None))
    report.assert_passed()
    assert notes(report) == ["flax_model changes held, so only first calls are compared"]


def test_a_count_of_what_a_layer_draws_for_nothing_is_not_noted(quickly_compiled):
    def drawing(m, x):
        return plain(m, x) + 0 * jax.random.normal(m.drop.rngs(), (6, 2))

    port = Port(drawing, nnx.Dropout(0.0, rngs=nnx.Rngs(0)))
    found = notes(check(Reference(plain), port, training_steps=0))
    assert not [note for note in found if "only first calls" in note]
