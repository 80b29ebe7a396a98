"""Modules whose variables or dtypes are not those of PyTorch's module one by one."""

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
    with torch.no_grad():
        reference.lstm.bias_ih_l0 *= 1.1  # as trained ones, whose sum has to be rounded
    names = {"rnn.cell": fb.SummedBiases("lstm", "_l0")}
    fb.load_state_dict(candidate, reference.state_dict(), names=names)
    x = np.random.default_rng(0).standard_normal((2, 5, 3), dtype=np.float32)
    options = {"names": names, "training_steps": 0}
    report = parity.check(reference, candidate, x, **options)
    assert {row.name for row in report.failing} == {"lstm.bias_hh_l0"}
    assert {row.check for row in report.failing} == {"gradients"}
    known = {"lstm.bias_*": "one bias for two"}
    parity.check(reference, candidate, x, known=known, **options).assert_passed()


class Named(nnx.Module):
    """Has a dtype of its own: a name of one, which it computes in, or something else."""

    def __init__(self, dtype):
        self.linear, self.dtype = nnx.Linear(3, 2, rngs=nnx.Rngs(0)), dtype
        self.scale = nnx.Param(np.ones(2, np.float32))

    def __call__(self, x):
        y = self.linear(x) * self.scale[...][None]
        return y.astype(self.dtype) if self.dtype in ("float32",) else y


class Property(Named):
    """Has a dtype that is computed."""

    param_dtype = property(lambda self: self.scale[...].dtype)


class TorchNamed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.scale = torch.nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.linear(x) * self.scale


@pytest.mark.parametrize(
    ("kind", "dtype"), [(Named, "float32"), (Named, "image"), (Property, None)]
)
def test_a_dtype_may_be_a_name_or_something_else(quickly_compiled, kind, dtype):
    reference, candidate = TorchNamed(), kind(dtype)
    fb.load_state_dict(candidate, reference.state_dict())
    x = np.random.default_rng(0).standard_normal((2, 3), dtype=np.float32)
    parity.check(reference, candidate, x, training_steps=0).assert_passed()
