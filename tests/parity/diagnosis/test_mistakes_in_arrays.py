"""Mistakes that are seen in an array alone, an output or a parameter, are named."""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import parity
from parity.comparison import judge
from parity.diagnosis import match, relations
from parity.judge import Judged
from parity.place import Place
from parity.results import Row

from .words import family, words_of

pytestmark = pytest.mark.usefixtures("operation_by_operation")


def halves(mix):
    return lambda y: jnp.hstack(mix(*jnp.split(y, 2, axis=-1)))


IN_OUTPUTS = {
    "its second axis is one place late": lambda y: jnp.roll(y, 1, axis=1),
    "its second axis is one place early": lambda y: jnp.roll(y, -1, axis=1),
    "the halves of its last axis are swapped": halves(lambda a, b: (b, a)),
    "the first half of its last axis stands in both places": halves(lambda a, b: (a, a)),
    "the second half of its last axis stands in both places": halves(lambda a, b: (b, b)),
    "both halves of its last axis are their sum": halves(lambda a, b: (a + b, a + b)),
    "both halves of its last axis are their mean": halves(lambda a, b: ((a + b) / 2,) * 2),
    "it is 0.5 more everywhere": lambda y: y + 0.5,
}


@pytest.mark.parametrize("words", IN_OUTPUTS)
def test_a_mistake_in_any_output_is_named(words):
    torch.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((2, 3), dtype=np.float32)
    report = parity.check(
        torch.nn.Linear(3, 4),
        lambda w, x: IN_OUTPUTS[words](x @ w["weight"].T + w["bias"][None]),
        x,
        dtypes=["float64"],
        training_steps=0,
    )
    assert words_of(report.first_divergence.note) == words


def test_what_explains_another_array_is_said_of_that_one():
    rng = np.random.default_rng(0)
    truth = {"weight": rng.standard_normal(6), "bias": rng.standard_normal(6)}
    given = {"weight": rng.standard_normal(6), "bias": np.zeros(6)}
    rows = tuple(
        judge(truth[n], given[n], [truth[n]], Place(check="gradients", dtype="float64", name=n))
        for n in truth
    )
    assert relations.of_arrays(Judged(truth, given, rows)) == "at bias, it is zero"
    assert relations.of_arrays(Judged(truth, given, rows[1:])) == "it is zero"


def test_nothing_explains_an_array_that_only_rounding_determines():
    def rows(spread):
        return {"y": Row(name="y", spread=spread, passed=True)}

    array, near = {"y": np.ones(3)}, {"y": np.ones(3) + 1e-15}
    assert 0 < match._distance(array, near, "float64", rows(1e-15)) < 10
    assert np.isinf(match._distance(array, near, "float64", rows(1.0)))
    assert match._distance(array, array, "float64", rows(1.0)) == 0


@pytest.mark.parametrize(("error", "explained"), [(1e3, True), (0.25, False)])
def test_a_mistake_is_nearer_to_the_candidate_than_the_truth_is(error, explained):
    """In float32, a mask's 1e9 makes the bound 1e3, within which is nearly anything."""
    made, given = {"y": np.array([1e9, 1.5])}, {"y": np.array([1e9 + 64, 1.25])}
    row = Row(name="y", distance=error, passed=False)
    assert np.isfinite(match._distance(made, given, "float32", {"y": row})) == explained


RNG = np.random.default_rng(0)
HELD = {name: RNG.standard_normal(8) for name in ("bias_ih", "bias_hh")}
IN_PARAMETERS = {
    "it is doubled": 2 * HELD["bias_hh"],
    "it holds bias_ih": HELD["bias_ih"],
    "its sign is turned": -HELD["bias_hh"],
    "it is in reverse order": HELD["bias_hh"][::-1],
    "it holds the sum of both biases: bias_ih is folded into it": sum(HELD.values()),
    "output and input gates are exchanged": HELD["bias_hh"][[6, 7, 2, 3, 4, 5, 0, 1]],
}


@pytest.mark.parametrize("words", IN_PARAMETERS)
def test_a_mistake_in_a_parameter_is_named(words):
    found = match.of_parameter("bias_hh", HELD, {"bias_hh": IN_PARAMETERS[words]})
    assert family(found) == family(words)
