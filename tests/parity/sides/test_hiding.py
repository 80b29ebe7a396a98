"""What hides mistakes is noted, and nothing else is."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity.sides import hiding
from parity.sides.hiding import notes
from parity.sides.torch_copy import rounded_constants
from parity.sides.torch_side import TorchSide

NOTE = "weight equals its transpose, which hides whether it is needed"
UPPER = np.triu(np.arange(9.0).reshape(3, 3))
MATRICES = {
    "symmetric": (UPPER + UPPER.T, True),
    "two edges": (np.eye(5)[[0, 3, 2, 1, 4]] - np.eye(5), True),
    "any other": (UPPER, False),
    "diagonal": (np.diag([1.0, 2.0, 3.0]), False),
    "one number": (np.full((3, 3), 0.25), False),
    "no square": (np.ones((2, 3)), False),
    "a vector": (np.ones(3), False),
}


@pytest.mark.parametrize("name", MATRICES)
def test_symmetric_matrices_are_noted(name):
    matrix, symmetric = MATRICES[name]
    found = list(notes([], {"weight": matrix}, {}, []))
    assert found == ([NOTE] if symmetric else [])


def test_symmetric_inputs_are_noted():
    adjacency = np.stack([UPPER + UPPER.T, 2 * UPPER + 2 * UPPER.T])
    assert list(notes([], {}, {"adjacency": adjacency}, [])) == [
        NOTE.replace("weight", "adjacency")
    ]
    assert not list(notes([], {}, {"adjacency": np.stack([UPPER, UPPER.T])}, []))


HIDING = {
    "one row, again and again": (np.ones((4, 5, 3)) * np.arange(3), "all rows are the same in x"),
    "one feature": (np.arange(20.0).reshape(4, 5, 1) % 3, ""),
    "all the same": (np.full((4, 5, 3), 0.5), "all numbers are the same in x"),
}


@pytest.mark.parametrize("name", HIDING)
def test_inputs_that_hide_mistakes_are_noted(name):
    x, words = HIDING[name]
    found = list(hiding.notes((), {}, {"x": x.astype(np.float32)}, ()))
    assert [note[: len(words)] for note in found] == ([words] if words else [])


IMAGE = torch.nn.Conv2d(1, 2, 3)
AXES = {
    "one sequence": (torch.nn.Linear(3, 2), (1, 5, 3), True),
    "one step": (torch.nn.Linear(3, 2), (4, 1, 3), True),
    "one feature": (torch.nn.Linear(1, 2), (4, 5, 1), False),
    "a grey image": (IMAGE, (2, 1, 5, 5), False),
    "one grey image": (IMAGE, (1, 1, 5, 5), True),
}


@pytest.mark.parametrize("name", AXES)
def test_axes_of_size_1_are_noted_if_they_could_be_longer(name):
    module, shape, told = AXES[name]
    x = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    single = hiding.with_single_axis(TorchSide(module), {"x": x})
    assert single == ["x"] * told
    words = "an axis of x has size 1, which hides"
    assert [note[: len(words)] for note in hiding.notes((), {}, {}, (), single)] == [words] * told


def test_attributes_of_0_or_1_are_noted():
    class Annealed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.beta, self.temperature, self.rate, self.layers = 0.0, 1.0, 0.5, 1
            self.drop = torch.nn.Dropout(0.0)

    plain = hiding.of_0_or_1(torch.nn.Sequential(Annealed()))
    assert plain == ["0.beta", "0.temperature"]
    (note,) = hiding.notes((), {}, {}, (), (), plain)
    assert note == "0.beta, 0.temperature of torch_model is 0 or 1, which hides how it is used"


@pytest.mark.parametrize(("lengths", "told"), [([5, 3, 3], True), ([3, 5, 3], False)])
def test_sorted_lengths_are_noted(lengths, told):
    inputs = {"x": np.arange(30.0).reshape(3, 5, 2), "x1": np.array(lengths)}
    found = list(hiding.notes((), {}, inputs, ()))
    assert found == ["x1 is sorted, which hides whether that is undone"] * told


def test_equal_inputs_are_noted():
    a, b = np.arange(12.0).reshape(4, 3), np.arange(12).reshape(3, 4)
    (note,) = hiding.notes((), {}, {"a": a, "b": b, "c": a.astype(int)}, ())
    assert note == "a and c are equal, which hides that one is read for the other"


def test_constants_in_float32_are_noted():
    model = torch.nn.Module()
    model.scale, model.half = torch.sqrt(torch.FloatTensor([8.0])), torch.tensor([0.5, 3.0])
    model.whole, model.least = torch.arange(5000.0), torch.tensor([-torch.inf, torch.nan])
    model.register_buffer("table", torch.arange(3) / 3, persistent=False)
    model.register_buffer("held", torch.arange(3) / 3)
    assert rounded_constants(model) == ["scale", "table"]
