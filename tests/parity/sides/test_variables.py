"""Flax's own cells, whose variables are not one to one with PyTorch's tensors."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
import parity


class TorchTagger(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(3, 4, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0]


class Tagger(nnx.Module):
    def __init__(self):
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=nnx.Rngs(0)))

    def __call__(self, x):
        return self.rnn(x)


def test_a_cell_of_flax_with_one_bias_for_two(quickly_compiled):
    """Its state begins in the dtype of its parameters, which is another one in float64."""
    reference, candidate = TorchTagger(), Tagger()
    names = {"rnn.cell": fb.SummedBiases("lstm", "_l0")}
    fb.load_state_dict(candidate, reference.state_dict(), names=names)
    x = np.random.default_rng(0).standard_normal((2, 5, 3), dtype=np.float32)
    options = {"names": names, "training_steps": 0, "dtypes": ["float64"]}
    report = parity.check(reference, candidate, x, **options)
    assert {row.name for row in report.failing} == {"lstm.bias_ih_l0", "lstm.bias_hh_l0"}
    assert "it holds the sum of both biases" in str(report)
    known = {"lstm.bias_*": "one bias for two"}
    parity.check(reference, candidate, x, known=known, **options).assert_passed()
