"""Intercepted calls must do what the calls themselves do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
import parity
from parity.sides import trees

X = np.random.default_rng(0).standard_normal((4, 4), dtype=np.float32)
OPTIONS = {"dtypes": ["float64"], "optimizers": [parity.optimizers.SGD], "training_steps": 1}


class Block(torch.nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.fc, self.own = torch.nn.Linear(4, 4), forward

    def forward(self, *args):
        return self.own(self, *args)


class FlaxBlock(nnx.Module):
    def __init__(self, forward):
        self.fc, self.own = nnx.Linear(4, 4, rngs=nnx.Rngs(0)), forward

    def __call__(self, *args):
        return self.own(self, *args)


class Outer(torch.nn.Module):
    def __init__(self, forward, block):
        super().__init__()
        self.block, self.own = Block(block), forward

    def forward(self, x):
        return self.own(self, x)


class FlaxOuter(nnx.Module):
    def __init__(self, forward, block):
        self.block, self.own = FlaxBlock(block), forward

    def __call__(self, x):
        return self.own(self, x)


def check(theirs, ours):
    reference, candidate = Outer(*theirs), FlaxOuter(*ours)
    fb.load_state_dict(candidate, reference.state_dict())
    return parity.check(reference, candidate, X, **OPTIONS)


def appending(factor):
    def block(m, x, seen):
        y = m.fc(x)
        seen.append(factor * y)
        return y

    def outer(m, x):
        seen = []
        y = m.block(x, seen)
        return y + sum(seen)

    return outer, block


def caching(factor):
    def block(m, x, cache):
        y = m.fc(x) + cache["x"]
        cache["y"] = factor * y
        return y

    def outer(m, x):
        cache = {"x": x}
        y = m.block(x, cache)
        return y + cache["y"] + cache["x"]

    return outer, block


@pytest.mark.parametrize("kind", [appending, caching])
@pytest.mark.parametrize("right", [True, False])
def test_what_a_module_writes_to_its_arguments_is_not_lost(quickly_compiled, kind, right):
    assert check(kind(1), kind(1 if right else 7)).passed == right


def in_place(m, x):
    h = m.block(x)
    h += 1
    return torch.tanh(h)


@pytest.mark.parametrize("right", [True, False])
def test_a_stage_that_is_changed_in_place(quickly_compiled, right):
    def ours(m, x):
        h = m.block(x)
        return jnp.tanh((h if right else jax.lax.stop_gradient(h)) + 1)

    def block(m, x):
        return m.fc(x)

    report = check((in_place, block), (ours, block))
    assert report.passed == right
    assert right or report.first_divergence.name == "block"


class Scaled(torch.nn.LSTM):
    def forward(self, x, scale=1.0):
        y, state = super().forward(x)
        return scale * y, state


class FlaxScaled(fb.LSTM):
    def __call__(self, x, scale=1.0):
        y, state = super().__call__(x)
        return scale * y, state


class TorchScaling(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = Scaled(4, 3, batch_first=True)

    def forward(self, x):
        return self.lstm(x, scale=2.0)[0]


class Scaling(nnx.Module):
    def __init__(self, scale):
        self.lstm, self.scale = FlaxScaled(4, 3, rngs=nnx.Rngs(0)), scale

    def __call__(self, x):
        return self.lstm(x, scale=self.scale)[0]


@pytest.mark.parametrize("scale", [2.0, 1.0])
def test_arguments_of_a_subclass_of_an_lstm_are_passed(quickly_compiled, scale):
    reference, candidate = TorchScaling(), Scaling(scale)
    fb.load_state_dict(candidate, reference.state_dict())
    report = parity.check(reference, candidate, X[None], **OPTIONS)
    assert report.passed == (scale == 2.0)


class ScaledCell(torch.nn.LSTMCell):
    def forward(self, x, state=None, scale=1.0):
        h, c = super().forward(x, state)
        return scale * h, c


class FlaxScaledCell(fb.LSTMCell):
    def __call__(self, state, x, scale=1.0):
        (c, h), y = super().__call__(state, x)
        return (c, scale * h), scale * y


class TorchStep(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = ScaledCell(4, 3)

    def forward(self, x):
        return self.cell(x, scale=2.0)[0]


class FlaxStep(nnx.Module):
    def __init__(self):
        self.cell = FlaxScaledCell(4, 3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        zeros = jnp.zeros((len(x), 3), x.dtype)
        return self.cell((zeros, zeros), x, scale=2.0)[1]


def test_a_cell_that_is_called_in_a_way_of_its_own_is_no_stage(quickly_compiled):
    reference, candidate = TorchStep(), FlaxStep()
    fb.load_state_dict(candidate, reference.state_dict())
    report = parity.check(reference, candidate, X, **OPTIONS)
    report.assert_passed()
    assert {row.name for row in report.rows if row.check == "forward"} == {"output"}


def test_a_value_in_which_nothing_changes_is_the_value_itself():
    value = {"x": [X, (X,)]}
    assert trees.mapped("value", value, lambda name, array: array) is value
    assert trees.mapped("value", value, lambda name, array: array + 1) is not value
