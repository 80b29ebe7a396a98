"""How many of the reference's runs it takes to judge a candidate."""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity.judge import judge_run
from parity.place import Place
from parity.sides.side import Pair, Side
from parity.sides.torch_side import TorchSide
from parity.tolerances import MORE_NUDGES, TOLERANCES

from .conftest import Linear

PLACE = Place(check="forward", dtype="float64")
RUNS_BESIDE_NUDGES = 3
"""The plain run, the quick nudged run of the first round, and that of the second."""


class Given(Side):
    """A candidate that gives these arrays."""

    def __init__(self, arrays):
        super().__init__("given", {})
        self.arrays = arrays

    def forward(self, parameters, inputs, dtype):
        return self.arrays

    gradients = train = None


class Saturated(torch.nn.Module):
    """Of 1 − tanh(x) nothing is left but how tanh is rounded."""

    def forward(self, x):
        return 1 - torch.tanh(x)


def judged(module, off):
    """The rows of a candidate that is off by so much, and how often the reference was run."""
    reference, count = TorchSide(module, stages=()), 0
    inputs = {"x": np.full((3, 4), 19.0)}
    right = reference.forward({}, inputs, "float64")

    def run(side, dtype):
        nonlocal count
        count += not isinstance(side, Given)
        return side.forward({}, inputs, dtype)

    pair = Pair(reference, Given({name: array + off for name, array in right.items()}))
    rows = judge_run(pair, run, PLACE).rows
    return rows, count


def test_a_right_candidate_takes_the_quick_run_alone():
    (row,), count = judged(torch.nn.Tanh(), 0.0)
    assert row.passed
    assert count == RUNS_BESIDE_NUDGES - 1


def test_who_is_right_but_for_the_rounding_of_a_function_is_acquitted_by_the_next_runs():
    (row,), count = judged(Saturated(), 5e-16)
    assert row.verdict == "undetermined"
    assert count == RUNS_BESIDE_NUDGES + TOLERANCES["float64"].nudges


@pytest.mark.parametrize(("off", "last"), [(1e-12, MORE_NUDGES), (0.5, 0)])
def test_who_is_wrong_by_little_is_convicted_by_many_runs_and_by_much_by_some(off, last):
    (row,), count = judged(torch.nn.Tanh(), off)
    assert not row.passed
    assert count == RUNS_BESIDE_NUDGES + TOLERANCES["float64"].nudges + last


class Returning(Linear):
    """Returns something else than arrays of NumPy."""

    def __init__(self, change):
        super().__init__("returning", {"weight": np.eye(2), "bias": np.ones(2)})
        self.returned = change

    def forward(self, *given):
        return self.returned(super().forward(*given))


def test_a_side_may_return_arrays_of_jax():
    side = Returning(lambda found: {n: jnp.asarray(a, jnp.float32) for n, a in found.items()})
    other = Linear("numpy", side.parameters)
    inputs = {"x": np.array([[2.0, 3.0]])}
    run = lambda side, dtype: side.forward(side.parameters, inputs, dtype)  # noqa: E731
    assert judge_run(Pair(other, side), run, Place(dtype="float32")).failure is None


def test_a_side_that_returns_no_mapping_is_told():
    side = Returning(lambda found: None)
    run = lambda side, dtype: side.forward(side.parameters, {"x": np.ones((1, 2))}, dtype)  # noqa: E731
    judged = judge_run(Pair(Linear("numpy", side.parameters), side), run, Place(dtype="float32"))
    assert "returning: expected a mapping, names → arrays, got NoneType" in judged.failure.note
