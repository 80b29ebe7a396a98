"""A model that is told its mode by a keyword of its call."""

import pytest

torch = pytest.importorskip("torch")

from flax import nnx

from parity.sides.calls import Positional

from ..two_layers import Port, Reference, check, failing, notes, plain


class Told(Port):
    """In Flax."""

    def __call__(self, x, *, deterministic=True):
        return self.own(self, x, deterministic)


class ToldReference(Reference):
    """In PyTorch."""

    def forward(self, x, train=False):
        return self.own(self, x, train)


class ToldPort(Port):
    """By another keyword."""

    def __call__(self, x, train=False):
        return self.own(self, x, train)


def told(m, x, deterministic):
    return m.b(m.drop(m.a(x), deterministic=deterministic))


def with_dropout(ours):
    """The report on a candidate that is told its mode."""
    theirs = Reference(lambda m, x: m.b(m.drop(m.a(x))), torch.nn.Dropout(0.3))
    return check(theirs, Told(ours, nnx.Dropout(0.3, rngs=nnx.Rngs(0))))


def test_a_candidate_that_is_told_its_mode_by_a_keyword(quickly_compiled):
    report = with_dropout(told)
    report.assert_passed()
    assert not notes(report)


class Optional(Port):
    """With an argument that the reference has too, one of its own, and one that is a mode."""

    def __call__(self, x, mask=None, *, scale=1.0, is_train=False, **others):
        return self.own(self, x)


class OptionalReference(Reference):
    """With one of them."""

    def forward(self, x, mask=None):
        return self.own(self, x)


def test_arguments_that_nothing_is_passed_for_are_noted(quickly_compiled):
    report = check(OptionalReference(plain), Optional(plain), training_steps=0)
    assert notes(report)[0] == "compared only with the default of: mask, scale"


@pytest.mark.parametrize(
    "wrong",
    [lambda m, x, deterministic: m.b(m.a(x)), lambda m, x, deterministic: told(m, x, True)],
)
def test_a_candidate_that_ignores_the_keyword_fails(quickly_compiled, wrong):
    assert failing(with_dropout(wrong)) == {"training mode"}


@pytest.mark.parametrize("right", [True, False])
def test_a_reference_that_is_told_its_mode_by_a_keyword(quickly_compiled, right):
    def theirs(m, x, train):
        return plain(m, x) * (0.5 if train else 1)

    def ours(m, x, train):
        return plain(m, x) * (0.5 if train and right else 1)

    assert check(ToldReference(theirs), ToldPort(ours)).passed == right


def test_arguments_without_a_default_and_methods_of_no_module():
    def forward(self, x, needed, scale=1.0):
        return x

    assert Positional().not_given(forward) == ["scale"]
    forward.__module__ = None  # as of torch.fx
    assert Positional().not_given(forward) == ["scale"]
