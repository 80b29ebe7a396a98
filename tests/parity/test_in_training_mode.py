"""A run in training mode with Dropout: gradients, masks, and what the call keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

from . import two_layers
from .two_layers import X, failing, notes


class Reference(two_layers.Reference):
    def __init__(self, forward):
        super().__init__(forward, torch.nn.Dropout(0.3))
        self.register_buffer("kept", torch.zeros(2))


class Port(two_layers.Port):
    def __init__(self, forward):
        super().__init__(forward, nnx.Dropout(0.3, rngs=nnx.Rngs(0)))
        self.kept = nnx.BatchStat(jnp.zeros(2))


def check(theirs, ours, x=X):
    return two_layers.check(Reference(theirs), Port(ours), x)


def dropped(m, x):
    return m.b(m.drop(m.a(x)))


def through(m, x):
    y = m.a(x)
    return m.b(y + jax.lax.stop_gradient(m.drop(y) - y))


def test_a_gradient_that_does_not_go_through_the_dropout_fails(quickly_compiled):
    report = check(dropped, through)
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
    report = check(dropped, ours)
    (row,) = (row for row in report.rows if not row.passed)
    assert (row.check, row.name) == ("training mode", "dropout masks")
    assert "calls [1] of its Dropout draw a mask that was drawn before" in row.note


def test_the_call_whose_mask_is_the_same_is_named(quickly_compiled):
    def theirs(m, x):
        return m.drop(m.b(m.drop(m.a(x))))

    def ours(m, x):
        return m.drop(m.b(m.drop(m.a(x))), rngs=jax.random.key(0))

    (row,) = (row for row in check(theirs, ours).rows if not row.passed)
    assert "calls [2] of its Dropout" in row.note


def test_a_dropout_that_jax_cannot_draw_from_fails(quickly_compiled):
    def ours(m, x):
        return m.b(jax.vmap(m.drop)(m.a(x)))

    (row,) = (row for row in check(dropped, ours).rows if not row.passed)
    assert (row.check, row.note[:19]) == ("training mode", "the candidate raise")


def test_dropout_before_a_maximum_is_not_dropout_after_it(quickly_compiled):
    def theirs(m, x):
        return m.b(m.drop(m.a(x)).amax(1, keepdim=True).expand(-1, 4))

    def ours(m, x):
        return m.b(jnp.broadcast_to(m.drop(m.a(x).max(1, keepdims=True)), (len(x), 4)))

    x = np.random.default_rng(0).standard_normal((40, 3), dtype=np.float32)
    assert failing(check(theirs, ours, x)) == {"training mode"}


def test_dropout_in_another_layout_is_noted(quickly_compiled):
    report = check(dropped, lambda m, x: m.b(m.drop(m.a(x).T).T))
    report.assert_passed()
    (note,) = notes(report)
    assert note.startswith("Dropout has another layout or order of calls")


def after_its_dropout(m, x):
    y = m.drop(m.a(x))
    if m.training:
        m.kept.copy_(y.detach().square().mean(0)[:2])
    return m.b(y)


@pytest.mark.parametrize("right", [True, False])
def test_what_is_kept_of_a_dropout(quickly_compiled, right):
    def ours(m, x):
        before = m.a(x)
        y = m.drop(before)
        if not m.drop.deterministic:
            m.kept[...] = jnp.square(y if right else before).mean(0)[:2]
        return m.b(y)

    report = check(after_its_dropout, ours)
    wrong = {("training mode", "kept after")}
    assert {(r.check, r.name) for r in report.rows if not r.passed} == (set() if right else wrong)
