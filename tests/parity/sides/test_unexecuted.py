"""The lines of a module that no run executes are named: the first one of each piece."""

import sys

import pytest

torch = pytest.importorskip("torch")

from parity.sides.torch_side import TorchSide
from parity.sides.unexecuted import Lines
from parity.sides.unreached import of_reference

X = torch.arange(6.0).reshape(3, 2)


class Branches(torch.nn.Module):
    def forward(self, x, y=None):
        """What is not executed without y, or with it."""
        if y is not None:
            x = self.added(x, y)
        elif x.ndim == 9:
            x = x.mean(0)
            x = x + 1
        for i in range(len(x) - 3):
            x = x + i
        try:
            x = x + 1
        except ValueError:
            x = x - 1
        match x.ndim:
            case 1:
                x = x - 1
            case _:
                x = x + 1
        if self.training:
            return (
                x +
                1
            )  # fmt: skip
        return x

    def added(self, x, y):
        if x.shape != y.shape:
            if x.ndim > 5:
                raise ValueError("too many axes")
            raise ValueError("other shapes")
        return x + y


ON = {
    "one input": ((X,), [4, 6, 9, 13, 16, 20]),
    "two inputs": ((X, X), [5, 9, 13, 16, 20]),
    "training": ((X,), [4, 6, 9, 13, 16, 24]),
}


@pytest.mark.parametrize("name", ON)
def test_the_first_line_of_each_piece(name):
    inputs, expected = ON[name]
    module = Branches().train(name == "training")
    lines = Lines(module)
    with lines.watched():
        module(*inputs)
    start = Branches.forward.__code__.co_firstlineno
    assert lines.missed() == [f"test_unexecuted.py:{start + line - 1}" for line in expected]


def helper(x):
    if len(x) > 9:
        return 2 * x
    return x


class Calling(torch.nn.Module):
    def forward(self, x):
        if all(len(row) for row in x):
            x = [(lambda row: 2 * row)(row) for row in x]
            x = torch.stack(x)
        return helper(x)


def test_functions_of_the_same_file_are_watched():
    module = Calling()
    lines = Lines(module)
    with lines.watched():
        module(X)
    assert lines.missed() == [f"test_unexecuted.py:{helper.__code__.co_firstlineno + 2}"]


def test_tracing_is_what_it_was_before():
    before = sys.gettrace()
    lines = Lines(Branches())
    with pytest.raises(KeyError), lines.watched():
        raise KeyError
    assert sys.gettrace() is before


def test_code_without_its_source_is_left_out():
    exec("def forward(self, x):\n    return x\n    return 2", scope := {})
    module = type("Made", (torch.nn.Module,), {"forward": scope["forward"]})()
    lines = Lines(module)
    with lines.watched():
        module(X)
    assert lines.missed() == []


def test_both_modes_are_executed():
    (note,) = of_reference(TorchSide(Branches()), {"x": X.numpy()}, training=True)
    assert note.startswith("lines that no run executes, so not compared: test_unexecuted.py:")
    start = Branches.forward.__code__.co_firstlineno
    missed = [int(place.rpartition(":")[2]) - start + 1 for place in note.split(", ")[1:]]
    assert missed == [4, 6, 9, 13, 16]
