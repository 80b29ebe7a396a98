"""The initial distributions are PyTorch's: the bounds, and that the whole range is drawn evenly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm.initializers import symmetric_uniform

stats = pytest.importorskip("scipy.stats")

INPUTS, HIDDEN, OUTPUTS = 40, 32, 20


def networks_bound(name):
    """Half the width of the uniform distribution that PyTorch draws the tensor from."""
    return 1 / np.sqrt(HIDDEN if name.startswith("lstm.") else 2 * HIDDEN)


NETWORK = fb.state_dict(fb.BiLSTMWithAttention(INPUTS, HIDDEN, OUTPUTS, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("name", NETWORK)
def test_each_tensor_of_the_network_is_uniform_within_its_bounds(name):
    bound, values = networks_bound(name), NETWORK[name].ravel()
    assert abs(values).max() <= bound
    assert stats.kstest(values, "uniform", (-bound, 2 * bound)).pvalue > 1e-3
    if values.size > 100:
        assert abs(values).max() > 0.9 * bound


@pytest.mark.parametrize("name", NETWORK)
def test_each_tensor_of_the_network_is_distributed_as_torchs(name):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(INPUTS, HIDDEN, bidirectional=True)
    linears = {
        "attention.attn.": torch.nn.Linear(2 * HIDDEN, 2 * HIDDEN),
        "fc.": torch.nn.Linear(2 * HIDDEN, OUTPUTS),
    }
    reference = {f"lstm.{n}": p for n, p in lstm.named_parameters()}
    for prefix, linear in linears.items():
        reference |= {prefix + n: p for n, p in linear.named_parameters()}
    theirs = reference[name].detach().numpy().ravel()
    assert stats.ks_2samp(NETWORK[name].ravel(), theirs).pvalue > 1e-3


def test_no_two_tensors_are_drawn_alike():
    values = [array.ravel()[:20] for array in NETWORK.values()]
    for i, one in enumerate(values):
        assert not any((one == other).any() for other in values[:i])


def test_projections_and_deeper_layers_are_drawn_by_the_hidden_size_too():
    lstm = fb.LSTM(5, HIDDEN, num_layers=2, bidirectional=True, proj_size=30, rngs=nnx.Rngs(0))
    bound = 1 / np.sqrt(HIDDEN)
    for name, array in fb.state_dict(lstm).items():
        assert 0.9 * bound < abs(array).max() <= bound, name


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_in_any_dtype_within_the_bounds(dtype):
    values = symmetric_uniform(10)(jax.random.key(0), (10_000,), dtype)
    assert values.dtype == dtype
    bound = float(jnp.asarray(1 / np.sqrt(10), dtype))
    assert 0.98 * bound < float(abs(values).max()) <= bound
    assert abs(float(values.astype(jnp.float32).mean())) < 4 * bound / np.sqrt(3 * 10_000)
