"""Inputs in which some numbers are marks: classes, what is missing, what is masked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")


from parity.nudging import nudged
from parity.sides.data import another_batch

from . import two_layers
from .two_layers import Port, Reference, X


def check(theirs, ours, x):
    """The functions are those of the first layer."""
    reference = Reference(lambda m, *x: m.b(theirs(m, *x)))
    return two_layers.check(reference, Port(lambda m, *x: m.b(ours(m, *x))), x)


def with_value(value, *where):
    x = X.copy()
    x[where] = value
    return x


MISSING = with_value(np.nan, 0, 1)
CLASSES = with_value(np.arange(6), slice(None), 0)
HIDDEN = np.where(np.tri(6) > 0, 0, -np.inf).astype(np.float32)
CASES = {
    "missing": (
        lambda m, x: m.a(torch.nan_to_num(x)),
        lambda m, x: m.a(jnp.nan_to_num(x)),
        lambda m, x: m.a(jnp.nan_to_num(x, nan=1.0)),
        MISSING,
    ),
    "hidden": (
        lambda m, x, k: m.a(torch.softmax(x @ x.T + k, -1) @ x),
        lambda m, x, k: m.a(jax.nn.softmax(x @ x.T + k) @ x),
        lambda m, x, k: m.a(jax.nn.softmax(x @ x.T) @ x),
        (X, HIDDEN),
    ),
    "a mark": (
        lambda m, x: m.a(x) * (x != -1).all(1, keepdim=True),
        lambda m, x: m.a(x) * (x != -1).all(1, keepdims=True).astype(x.dtype),
        lambda m, x: m.a(x),
        with_value(-1, 2),
    ),
    "classes": (
        lambda m, x: m.a(x) + torch.nn.functional.one_hot(x[:, 0].long() % 4, 4),
        lambda m, x: m.a(x) + jax.nn.one_hot(x[:, 0].astype(int) % 4, 4, dtype=x.dtype),
        lambda m, x: m.a(x) + jax.nn.one_hot(x[:, 1].astype(int) % 4, 4, dtype=x.dtype),
        CLASSES,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_marks_keep_their_meaning(quickly_compiled, case):
    theirs, right, wrong, x = CASES[case]
    report = check(theirs, right, x)
    report.assert_passed()
    assert not report.undetermined
    assert not check(theirs, wrong, x).passed


def test_numbers_that_are_missing_fail_where_the_reference_has_no_use_for_them(quickly_compiled):
    report = check(lambda m, x: m.a(x), lambda m, x: m.a(x), MISSING)
    first = report.first_divergence
    assert (first.check, first.name) == ("inputs", "x")
    assert "1 non-finite elements, the first at [0, 1]" in first.note


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_whole_numbers_stay(dtype):
    x = np.array([-1, 0, 1, 0.5, 300.25, 2.0**30]).astype(jnp.dtype(dtype))
    moved = nudged({"x": x}, dtype, 0)["x"]
    assert (moved == x).tolist()[:4] == [True, True, True, False]
    assert moved[-1] != x[-1] or dtype == "float64"
    batch = another_batch({"x": x[None]}, np.random.default_rng(0))["x"][0]
    assert (batch == x).tolist()[:4] == [True, True, True, False]


AGES = with_value(np.array([3.0, 17.0, 18.0, 17.0, 40.0, 2.0]), slice(None), 0)
LIMITS = {
    "ages above a limit": (AGES, lambda x: x[:, :1] > 17, lambda x: x[:, :1] >= 17),
    "a category": (AGES, lambda x: x[:, :1] == 17, lambda x: x[:, :1] == 18),
    "nothing but whole numbers": (
        np.round(10 * X), lambda x: x[:, :1] >= 8, lambda x: x[:, :1] > 8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LIMITS)
def test_whole_numbers_at_a_limit(quickly_compiled, case):
    x, right, wrong = LIMITS[case]

    def theirs(m, x):
        return torch.where(right(x), m.a(x), -m.a(x))

    def ours(limit):
        return lambda m, x: jnp.where(limit(x), m.a(x), -m.a(x))

    check(theirs, ours(right), x).assert_passed()
    assert "forward" in two_layers.failing(check(theirs, ours(wrong), x))


def test_of_a_mask_of_floats_the_gradient_is_not_compared(quickly_compiled):
    mask = np.tile([1.0, 1.0, 0.0, 1.0], (6, 1)).astype(np.float32)

    def theirs(m, x, mask):
        return torch.softmax(m.a(x) + (1 - mask) * -1e9, -1)

    def ours(m, x, mask):
        return jax.nn.softmax(jnp.where(mask == 0, -1e9, m.a(x)))

    report = check(theirs, ours, (X, mask))
    report.assert_passed()
    assert "the gradient at inputs of 0 and 1 is not compared: x1" in two_layers.notes(report)
