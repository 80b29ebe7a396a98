"""Submodules of both frameworks that have other paths belong together."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
import parity
from parity.sides.paired import submodules


def theirs():
    layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4))
    return torch.nn.ModuleDict({"net": layers, "norm": torch.nn.LayerNorm(4)})


def ours(epsilon=1e-5, **names):
    rngs = nnx.Rngs(0)
    layers = nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), nnx.relu, nnx.Linear(4, 4, rngs=rngs))
    norm = nnx.LayerNorm(4, epsilon=epsilon, rngs=rngs)
    return nnx.Dict(**{names.get("net", "net"): layers, "norm": norm})


@pytest.mark.parametrize("own", ["net", "head"])
def test_layers_of_a_sequential(own):
    names = {} if own == "net" else {"head": "net"}
    found = submodules(theirs(), ours(net=own), names, None).named
    inner = {"net.0": f"{own}.layers.0", "net.2": f"{own}.layers.2"}
    assert found == {"net": own, **inner, "norm": "norm"}


def test_a_mistake_inside_of_a_sequential_has_its_place(quickly_compiled, lenient):
    reference = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    rngs = nnx.Rngs(0)
    port = nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), nnx.LayerNorm(4, rngs=rngs))
    fb.load_state_dict(port, reference.state_dict())
    x = np.random.default_rng(0).standard_normal((5, 3), dtype=np.float32)
    first = parity.check(reference, port, x, dtypes=["float64"], training_steps=0).first_divergence
    assert first.name == "1"
    assert "the epsilon is 1e-06, Flax's default" in first.note
