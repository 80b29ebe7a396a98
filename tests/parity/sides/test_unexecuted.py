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


def test_what_is_called_in_another_file_is_watched(tmp_path, monkeypatch):
    (tmp_path / "helpers_of_mine.py").write_text(
        "def doubled(x):\n    if len(x) > 9:\n        return x\n    return 2 * x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import helpers_of_mine

    class Doubled(torch.nn.Module):
        def forward(self, x):
            return helpers_of_mine.doubled(x)

    module = Doubled()
    lines = Lines(module)
    with lines.watched():
        module(X)
    assert lines.missed() == ["helpers_of_mine.py:3"]


class Conditional(torch.nn.Module):
    def forward(self, x, mask=None, scale=None):
        x = x if mask is None else x * mask
        scale = scale.mean() if scale is not None else None
        weights = [0.5 if value > 9 else 1.0 for value in x.flatten().tolist()]
        return x * torch.tensor(weights).view(x.shape) + (1.0 if self.training else 0.0)


def test_the_branches_of_conditional_expressions():
    module = Conditional().eval()
    lines = Lines(module)
    with lines.watched():
        module(X)
    start = Conditional.forward.__code__.co_firstlineno
    parts = {1: "x * mask", 2: "scale.mean()", 3: "0.5", 4: "1.0"}
    expected = [f"test_unexecuted.py:{start + n} (the part {part})" for n, part in parts.items()]
    assert lines.missed() == expected
    with lines.watched():
        module.train()(100 * X, X, X)
    assert lines.missed() == []


class Loops(torch.nn.Module):
    def forward(self, x, most=9, least=0.0):
        for _ in range(most):
            if x.max() > 9:
                break
            x = 2 * x
        steps = 0
        while x.min() > least and steps < 4:
            x = x - 1
            steps += 1
        for row in x:
            x = x + row
        while True:
            x = x / 2
            if x.max() < 1:
                break
        return x


def test_loops_that_are_always_left_in_one_way():
    start = Loops.forward.__code__.co_firstlineno
    end = f"test_unexecuted.py:{start + 1} (the end of the loop: break always comes first)"
    by_value = f"test_unexecuted.py:{start + 6} (the end of the loop by x.min() > least)"
    by_count = f"test_unexecuted.py:{start + 6} (the end of the loop by steps < 4)"

    def missed(*calls):
        module = Loops()
        lines = Lines(module)
        for options in calls:
            with lines.watched():
                module(X + 1, **options)
        return lines.missed()

    assert missed({}) == [end, by_count]
    assert missed({"least": -99.0}) == [end, by_value]
    assert missed({}, {"least": -99.0}) == [end]
    assert missed({}, {"least": -99.0}, {"most": 1}) == []


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
