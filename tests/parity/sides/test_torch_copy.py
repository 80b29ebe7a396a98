"""References that cannot simply be copied, or whose gradients are sparse."""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
import parity

from .. import two_layers

X = np.random.default_rng(0).standard_normal((4, 3), dtype=np.float32)


def linear(state, x):
    return x @ state["weight"].T + state["bias"][None]


def normed(state, x):
    v = state["weight_v"]
    weight = v * (state["weight_g"] / jnp.sqrt(jnp.square(v).sum(1, keepdims=True)))
    return linear({**state, "weight": weight}, x)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_a_weight_that_is_computed_in_every_call(quickly_compiled):
    reference = torch.nn.utils.weight_norm(torch.nn.Linear(3, 2))
    reference(torch.from_numpy(X))  # its weight now has a gradient's history
    parity.check(reference, normed, X, training_steps=2).assert_passed()


def test_a_sparse_gradient_is_compared_as_a_dense_one(quickly_compiled):
    reference, ours = torch.nn.Embedding(7, 3, sparse=True), nnx.Embed(7, 3, rngs=nnx.Rngs(0))
    fb.load_state_dict(ours, reference.state_dict())
    parity.check(reference, ours, np.array([[1, 2], [3, 3]]), training_steps=2).assert_passed()
    assert reference.sparse


def test_a_bfloat16_reference_of_a_function(quickly_compiled):
    reference = torch.nn.Linear(3, 2).bfloat16()
    parity.check(reference, linear, X, training_steps=0).assert_passed()


@pytest.mark.parametrize(
    "compiled", [torch.jit.script, lambda m: torch.jit.trace(m, torch.zeros(1, 3))]
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_what_torch_jit_made_is_refused(compiled):
    with pytest.raises(TypeError, match=r"torch_model: .* which torch\.jit made"):
        parity.check(torch.nn.Sequential(compiled(torch.nn.Linear(3, 2))), linear, X)


def test_hooks_of_parameters_are_those_of_the_reference(quickly_compiled):
    reference = two_layers.Reference(two_layers.plain)
    candidate = two_layers.Port(two_layers.plain)
    assert two_layers.check(reference, candidate).passed
    reference.a.weight.register_hook(lambda slope: 0 * slope)
    assert not two_layers.check(reference, candidate).passed
