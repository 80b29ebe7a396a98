"""Two models of two layers whose forward pass is a function of the model and its inputs."""

import numpy as np
import torch
from flax import nnx

import flax_bilstm as fb
import parity

X = np.random.default_rng(0).standard_normal((6, 3), dtype=np.float32)
OPTIONS = {"dtypes": ["float64"], "optimizers": [parity.optimizers.SGD], "training_steps": 3}


class Reference(torch.nn.Module):
    """Layers from 3 to 4 and from 4 to 2 features, always with the same weights."""

    def __init__(self, forward, drop=None):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.a, self.b = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
        self.own, self.drop = forward, drop

    def forward(self, *inputs):
        return self.own(self, *inputs)


class Port(nnx.Module):
    """The same in Flax."""

    def __init__(self, forward, drop=None):
        self.a, self.b = (nnx.Linear(*sizes, rngs=nnx.Rngs(0)) for sizes in ((3, 4), (4, 2)))
        self.own, self.drop = forward, nnx.data(drop)

    def __call__(self, *inputs):
        return self.own(self, *inputs)


def check(reference, candidate, x=X, **options):
    """The report, after the candidate has got the reference's weights."""
    fb.load_state_dict(candidate, reference.state_dict())
    return parity.check(reference, candidate, x, **{**OPTIONS, **options})


def failing(report):
    """The checks with a row that differs."""
    return {row.check for row in report.rows if not row.passed}


def notes(report):
    """The notes of the one case, but those on rates of Dropout."""
    (facts,) = report.cases.values()
    return [words for words in facts.get("notes", ()) if "dropout rate" not in words]


def plain(m, x):
    """The forward pass of both layers, of either model."""
    return m.b(m.a(x))
