import weakref

import numpy as np
import pytest

pytest.importorskip("torch")

from parity import lockstep
from parity.lockstep import CandidateError, compare_steps
from parity.place import Place
from parity.sides.side import Later, Step

PLACE = Place(check="training", dtype="float64")


def steps(values, held=None):
    """A step for each value; `held` gets the number of earlier ones that are still in memory."""
    made = []
    for value in values:
        if held is not None:
            held.append(sum(array() is not None for array in made))
        array = np.full(3, float(value))
        made.append(weakref.ref(array))
        step = Step(np.zeros(()), {"w": array}, {})
        del array
        yield step
        del step


def compared(candidate, *reference):
    return compare_steps(steps(reference), candidate, [steps(reference)], {}, set(), PLACE)


def test_no_side_keeps_an_earlier_step():
    held = []
    rows = compared(steps([1, 2, 3], held), 1, 2, 3)
    assert held == [0, 0, 0]
    assert [(row.name, row.passed) for row in rows] == [("loss", True), ("w", True)]


def test_the_first_step_that_differs_is_the_row():
    _, row = compared(steps([1, 2.5, 3.5]), 1, 2, 3)
    assert (row.passed, row.step, row.distance) == (False, 2, 0.5)


def test_an_error_while_arrays_are_read_is_the_candidates():
    def fail():
        raise RuntimeError("from a callback")

    with pytest.raises(CandidateError, match="from a callback"):
        compared(iter([Step(np.zeros(()), Later(fail), {})]), 1)


@pytest.mark.parametrize(("much", "times"), [(1, 3), (2**20, 0)])
def test_memory_is_given_back_when_much_was_freed(monkeypatch, much, times):
    calls = []
    monkeypatch.setattr(lockstep, "MUCH", much)
    monkeypatch.setattr(lockstep, "trim", lambda: calls.append(1))
    compared(steps([1, 2, 3]), 1, 2, 3)
    assert len(calls) == times
