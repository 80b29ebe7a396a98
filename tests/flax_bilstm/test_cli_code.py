"""`inspect --code`: networks of odd names and layers; the common ones are in tests/networks."""

import time

import jax
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm.cli.code import code_of
from flax_bilstm.conversion.tensors import to_numpy

torch = pytest.importorskip("torch")
tnn = torch.nn


def having(**parts):
    """A torch module with these submodules, parameters and buffers."""
    module = tnn.Module()
    for name, part in parts.items():
        if isinstance(part, tnn.Module):
            module.add_module(name, part)
        elif isinstance(part, tnn.Parameter):
            module.register_parameter(name, part)
        else:
            module.register_buffer(name, part)
    return module


def parameter(*shape):
    return tnn.Parameter(torch.randn(shape))


NETWORKS = {
    "transformer": lambda: tnn.TransformerDecoder(tnn.TransformerDecoderLayer(8, 2, 16), 2),
    "keywords and signs": lambda: having(
        **{"class": tnn.Linear(2, 3), "a-b": tnn.Linear(2, 3), "x y": parameter(2)}
    ),
    "private names": lambda: having(__x=parameter(2), _y=parameter(3)),
    "names of the imports": lambda: having(nnx=tnn.Linear(2, 2), Network=having(np=parameter(1))),
    "equal names of unlike modules": lambda: having(
        a=having(block=having(fc=tnn.Linear(2, 2))), b=having(block=having(fc=tnn.Linear(3, 2)))
    ),
    "numbers with gaps": lambda: tnn.Sequential(tnn.ReLU(), tnn.Linear(2, 3), tnn.Linear(3, 1)),
    "buffers of other dtypes": lambda: having(
        mask=torch.ones(3, dtype=torch.bool), n=torch.tensor(3), c=torch.tensor(1 + 2j)
    ),
    "no equal in Flax": lambda: having(gru=tnn.GRU(3, 4, 2), cell=tnn.RNNCell(3, 4)),
    "keys and values of two widths": lambda: having(a=tnn.MultiheadAttention(8, 2, kdim=3, vdim=5)),
    "statistics in float16": lambda: having(norm=tnn.BatchNorm1d(3)).half(),
    "spectral norm": lambda: having(fc=tnn.utils.parametrizations.spectral_norm(tnn.Linear(2, 3))),
    "a mask of minus infinity": lambda: having(mask=torch.full((2, 2), -torch.inf).triu(1)),
    "weight_norm": lambda: having(fc=tnn.utils.parametrizations.weight_norm(tnn.Linear(2, 3))),
    "nothing": having,
    "one GRU": lambda: tnn.GRU(3, 4),
}


@pytest.mark.parametrize("title", NETWORKS)
def test_the_code_loads_the_file(title):
    state_dict = to_numpy(NETWORKS[title]().state_dict())
    scope = {}
    with jax.enable_x64(True):
        exec(code_of(state_dict), scope)
        module = scope["Network"](nnx.Rngs(0))
        fb.load_state_dict(module, state_dict)
        back = fb.state_dict(module)
    assert back.keys() == state_dict.keys()
    for name, array in state_dict.items():
        np.testing.assert_array_equal(back[name], array, strict=True)


def test_it_is_linear_in_the_modules():
    """Was quadratic: 10,000 modules took 96 s."""
    arrays = {f"blocks.{i}.fc.weight": np.zeros((2, 2), "f4") for i in range(5_000)}
    start = time.process_time()
    code_of(arrays)
    assert time.process_time() - start < 10
