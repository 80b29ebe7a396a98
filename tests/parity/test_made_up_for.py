"""Stages that hold other numbers, for which later code makes up, are noted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx
from torch.nn.utils.rnn import pack_padded_sequence

import flax_bilstm as fb
import parity

from .two_layers import Port, Reference

RNGS = nnx.Rngs(0)
X = np.random.default_rng(0).standard_normal((4, 4, 3), dtype=np.float32)
OPTIONS = {"optimizers": [parity.optimizers.SGD], "training_steps": 1}
MADE_UP = "stages in which the models differ, for which later code makes up, left out: "


@pytest.mark.parametrize("dtypes", [["float64", "float32"], ["float32"]])
def test_an_order_that_does_not_matter_to_the_output_is_noted(quickly_compiled, dtypes):
    """In float32 alone, two stages that agree only roughly could be such."""
    reference = Reference(lambda m, x: m.b(torch.tanh(m.a(x))).mean(1))
    port = Port(lambda m, x: m.b(jnp.tanh(m.a(x[:, ::-1]))).mean(1))
    fb.load_state_dict(port, reference.state_dict())
    report = parity.check(reference, port, X, **{**OPTIONS, "dtypes": dtypes})
    if "float64" in dtypes:
        report.assert_passed()
        assert f"{MADE_UP}a, a.input, b, b.input" in report.notes
    else:
        assert report.first_divergence.name == "a.input"
        assert not [row for row in report.rows if row.name == "output" and row.failed]


class Masked(torch.nn.Module):
    """Attention of one head; its mask is true where nothing is attended to."""

    def forward(self, x, mask):
        return torch.softmax((x @ x.mT).masked_fill(mask[:, None], -1e9), -1) @ x


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.relu, self.out = Masked(), torch.nn.ReLU(), torch.nn.Linear(3, 2)

    def forward(self, x, mask):
        return self.out(self.relu(self.attention(x, mask)))


class FlaxMasked(nnx.Module):
    """The same; its mask is true where something is, and it has the ReLU."""

    def __call__(self, x, mask):
        scores = jnp.where(mask[:, None], x @ x.swapaxes(1, 2), -1e9)
        return jax.nn.relu(jax.nn.softmax(scores, -1) @ x)


class FlaxNetwork(nnx.Module):
    def __init__(self, sign=1):
        self.attention, self.out = FlaxMasked(), nnx.Linear(3, 2, rngs=RNGS)
        self.sign = sign

    def __call__(self, x, mask):
        return self.out(self.sign * self.attention(x, ~mask))


MASK = np.array([[0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 1, 1]], bool)


def test_masks_of_the_other_meaning_and_a_moved_activation_are_left_out(quickly_compiled):
    reference, port = Network(), FlaxNetwork()
    fb.load_state_dict(port, reference.state_dict())
    report = parity.check(reference, port, {"x": X, "mask": MASK}, training_steps=1)
    report.assert_passed()
    assert f"{MADE_UP}attention, attention.input.1" in report.notes

    port.sign = -1  # no output is right with that
    report = parity.check(reference, port, {"x": X, "mask": MASK}, training_steps=0)
    assert not report.passed
    assert not [note for note in report.notes if "makes up" in note]


class Packed(torch.nn.Module):
    """The mean over the steps of each sequence; the LSTM does not run over padding."""

    def __init__(self):
        super().__init__()
        self.lstm, self.out = torch.nn.LSTM(3, 4, batch_first=True), torch.nn.Linear(4, 2)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths.cpu(), True, enforce_sorted=False)
        return self.out(self.lstm(packed)[1][0][0])


class FlaxUnpacked(nnx.Module):
    """Reads the last step of each sequence of an LSTM that also runs over padding."""

    def __init__(self, last=1):
        self.lstm, self.out = fb.LSTM(3, 4, rngs=RNGS), nnx.Linear(4, 2, rngs=RNGS)
        self.last = last

    def __call__(self, x, lengths):
        y, _ = self.lstm(x)
        return self.out(y[jnp.arange(len(x)), lengths - self.last])


def test_padding_that_is_never_read_is_left_out(quickly_compiled):
    reference, port = Packed(), FlaxUnpacked()
    fb.load_state_dict(port, reference.state_dict())
    inputs = {"x": X, "lengths": np.array([4, 2, 3, 1])}
    report = parity.check(reference, port, inputs, training_steps=1)
    report.assert_passed()
    assert f"{MADE_UP}lstm.c_n, lstm.h_n, lstm.input, lstm.output" in report.notes

    port.last = 0
    report = parity.check(reference, port, inputs, training_steps=0)
    assert not report.passed
