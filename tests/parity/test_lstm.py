"""A plain `nn.LSTM` as a pair: given states, packed sequences."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
import parity
from parity.sides import pair as pairs


def pair(reference, candidate, inputs):
    given = {name: array for name, array in inputs.items() if name != "target"}
    return pairs.of_modules(reference, candidate, given)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bidirectional": True, "proj_size": 2},
        {"bias": False, "bidirectional": True},
    ],
)
def test_a_plain_lstm_is_a_port_too(float64, options):
    torch.manual_seed(0)
    reference = torch.nn.LSTM(3, 4, batch_first=True, **options)
    candidate = fb.from_state_dict(reference.state_dict())
    rng = np.random.default_rng(0)
    directions = 2 if reference.bidirectional else 1
    states = directions * reference.num_layers
    out = reference.proj_size or 4
    inputs = {
        "x": rng.standard_normal((2, 5, 3)),
        "h_0": rng.standard_normal((states, 2, out)),
        "c_0": rng.standard_normal((states, 2, 4)),
        "target": rng.standard_normal(2 * 5 * directions * out + states * 2 * (out + 4)),
    }
    report = float64(pair(reference, candidate, inputs), inputs)
    report.assert_passed()
    gradients = {row.name for row in report.rows if row.check == "gradients"}
    assert {"x", "h_0", "c_0", "weight_hh_l0"} <= gradients


def test_a_plain_lstm_is_compared_with_a_packed_sequence(float64, forward_failures, monkeypatch):
    torch.manual_seed(0)
    reference = torch.nn.LSTM(3, 4, bidirectional=True)  # time-major
    candidate = fb.from_state_dict(reference.state_dict(), time_major=True)
    rng = np.random.default_rng(0)
    inputs = {
        "x": rng.standard_normal((5, 3, 3)),
        "lengths": np.array([2, 5, 1]),
        "target": rng.standard_normal(5 * 3 * 8 + 2 * 3 * 8),
    }
    float64(pair(reference, candidate, inputs), inputs).assert_passed()

    call = fb.LSTM.__call__
    monkeypatch.setattr(fb.LSTM, "__call__", lambda self, x, lengths, **rest: call(self, x, **rest))
    report = float64(pair(reference, candidate, inputs), inputs)
    assert "lstm.output" in forward_failures(report)


def test_an_lstm_that_one_side_calls_step_by_step(quickly_compiled):
    class Stepwise(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(3, 4, batch_first=True)

        def forward(self, x):
            found, state = [], None
            for step in x.split(1, 1):
                y, state = self.lstm(step, state)
                found.append(y)
            return torch.cat(found, 1)

    class AtOnce(nnx.Module):
        def __init__(self):
            self.lstm = fb.LSTM(3, 4, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.lstm(x)[0]

    torch.manual_seed(0)
    reference, port = Stepwise(), AtOnce()
    fb.load_state_dict(port, reference.state_dict())
    x = np.random.default_rng(0).standard_normal((2, 5, 3), dtype=np.float32)
    options = {"dtypes": ["float64"], "training_steps": 0}
    parity.check(reference, port, x, **options).assert_passed()
