"""Every network of the list: it loads, comes back, computes the same and trains on as PyTorch."""

import fnmatch

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm.cli.code import code_of
from flax_bilstm.conversion.tensors import to_numpy

torch = pytest.importorskip("torch")

from . import classifiers, forecasters, generators, taggers
from .network import in_float64

pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")

NETWORKS = {
    **taggers.NETWORKS,
    **classifiers.NETWORKS,
    **generators.NETWORKS,
    **forecasters.NETWORKS,
}
BEFORE, AFTER = 3, 50

every_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


@pytest.fixture(autouse=True)
def _as_users_write_it():
    """Biases are added to batches without a word, as in JAX's default."""
    with jax.numpy_rank_promotion("allow"):
        yield


def twins(network):
    """The PyTorch module and its port, which has other numbers yet; both in evaluation mode."""
    torch.manual_seed(0)
    reference = network.torch().double().eval()
    for name, buffer in reference.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
        elif buffer.is_floating_point():
            buffer.normal_()
    port = in_float64(network.flax(nnx.Rngs(1)))
    port.eval()
    return reference, port


def loaded(network):
    reference, port = twins(network)
    fb.load_state_dict(port, reference.state_dict(), names=network.names, ignore=network.ignore)
    return reference, port


def kept(network, state_dict):
    """Without what the network's port ignores."""
    return {
        name: tensor
        for name, tensor in state_dict.items()
        if not any(fnmatch.fnmatch(name, pattern) for pattern in network.ignore)
    }


@every_network
def test_it_comes_back_bit_for_bit(network):
    reference, port = loaded(network)
    expected = kept(network, reference.state_dict())
    back = fb.state_dict(port, names=network.names)
    assert back.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(back[name], tensor.numpy(), strict=True)
    fresh = network.torch().double()
    full = dict(reference.state_dict()) | {n: torch.tensor(a) for n, a in back.items()}
    fresh.load_state_dict(full, strict=True)


@every_network
def test_it_computes_the_same(network):
    reference, port = loaded(network)
    with torch.no_grad():
        expected = jax.tree.leaves(reference(*map(torch.tensor, network.inputs)))
    for actual, truth in zip(jax.tree.leaves(port(*network.inputs)), expected, strict=True):
        truth = truth.numpy()
        assert np.abs(actual - truth).max() <= 1e-12 * max(1, np.abs(truth).max())


def torch_steps(reference, optimizer, inputs, count):
    for _ in range(count):
        optimizer.zero_grad()
        outputs = jax.tree.leaves(reference(*map(torch.tensor, inputs)))
        sum((y**2).mean() for y in outputs).backward()
        optimizer.step()


@nnx.jit
def flax_step(port, optimizer, inputs):
    def loss_of(port):
        return sum(jnp.mean(y**2) for y in jax.tree.leaves(port(*inputs)))

    optimizer.update(port, nnx.grad(loss_of)(port))


@every_network
def test_it_trains_on_as_pytorch_would(network):
    reference, port = twins(network)
    named = list(reference.named_parameters())
    decayed = [(name, p) for name, p in named if p.ndim > 1]
    others = [(name, p) for name, p in named if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    torch_steps(reference, optimizer, network.inputs, BEFORE)
    fb.load_state_dict(port, reference.state_dict(), names=network.names, ignore=network.ignore)
    resumed = fb.optimizer_from_torch(
        port, optimizer.state_dict(), names=network.names, ignore=network.ignore
    )
    torch_steps(reference, optimizer, network.inputs, AFTER)
    for _ in range(AFTER):
        flax_step(port, resumed, network.inputs)
    expected = kept(network, reference.state_dict())
    for name, actual in fb.state_dict(port, names=network.names).items():
        np.testing.assert_allclose(actual, expected[name].numpy(), rtol=0, atol=1e-10, err_msg=name)


@every_network
def test_its_file_prints_the_code_of_a_module_that_loads_it(network):
    state_dict = to_numpy(network.torch().state_dict())
    scope = {}
    exec(code_of(state_dict), scope)
    module = scope["Network"](nnx.Rngs(0))
    fb.load_state_dict(module, state_dict)
    back = fb.state_dict(module)
    assert back.keys() == state_dict.keys()
    for name, array in state_dict.items():
        np.testing.assert_array_equal(back[name], array, strict=True)
    with pytest.raises(NotImplementedError, match="write the forward pass"):
        module(None)
