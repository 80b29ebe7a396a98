"""Right and wrong ports with Flax's attention, which by default computes its softmax in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
import parity
from tests.parity.two_layers import OPTIONS, failing


@pytest.fixture(autouse=True)
def _as_for_users():
    """JAX's own attention relies on promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


X = np.random.default_rng(0).standard_normal((3, 5, 4), dtype=np.float32)


class Reference(torch.nn.Module):
    def __init__(self, rate=0.0, other=0.0):
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(4, 2, batch_first=True, dropout=rate)
        self.drop = torch.nn.Dropout(other)

    def forward(self, x):
        return self.drop(self.attention(x, x, x)[0])


class ByHand(Reference):
    """The same, whose attention is computed by hand."""

    def forward(self, x):
        layer = self.attention
        projected = torch.nn.functional.linear(x, layer.in_proj_weight, layer.in_proj_bias)
        q, k, v = (part.unflatten(-1, (2, 2)).transpose(1, 2) for part in projected.chunk(3, -1))
        weights = (q @ k.mT / 2**0.5).softmax(-1)
        weights = torch.nn.functional.dropout(weights, layer.dropout, self.training)
        return self.drop(layer.out_proj((weights @ v).transpose(1, 2).flatten(2)))


class Port(nnx.Module):
    def __init__(self, other=0.0, **options):
        self.drop = nnx.Dropout(other, rngs=nnx.Rngs(0))
        self.attention = nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0), **options)

    def __call__(self, x):
        return self.drop(self.attention(x))


def in_bfloat16(query, key, value, **options):
    rounded = key.astype(jnp.bfloat16).astype(key.dtype)
    return nnx.dot_product_attention(query, rounded, value, **options)


@pytest.mark.parametrize("options", [{}, {"attention_fn": in_bfloat16}])
def test_a_softmax_in_float32_is_no_difference_and_lower_precision_is(quickly_compiled, options):
    reference, port = Reference(), Port(**options)
    fb.load_state_dict(port, reference.state_dict())
    report = parity.check(reference, port, X, training_steps=1)
    (facts,) = report.cases.values()
    assert report.passed == (not options)
    (one_sided,) = facts["notes"]
    assert one_sided.startswith("stages of one side only, left out: attention")
    assert port.attention.attention_fn is options.get("attention_fn", nnx.dot_product_attention)
    right = reference(torch.from_numpy(X)).detach().numpy()
    assert jnp.allclose(port(X), right, atol=1e-6) == (not options)


@pytest.mark.parametrize(
    ("rates", "options", "wrong"),
    [
        ((0.2, 0.3), {}, set()),
        ((0.1, 0.3), {}, {"training mode"}),
        ((0.2, 0.1), {}, {"training mode"}),
        ((0.0, 0.3), {}, {"training mode"}),
        ((0.2, 0.3), {"broadcast_dropout": True}, {"training mode"}),
    ],
    ids=["right", "another rate", "another rate of the layer behind", "none", "a shared mask"],
)
@pytest.mark.parametrize("by_hand", [False, True])
def test_the_dropout_of_its_weights_is_compared(rates, options, wrong, by_hand):
    reference = ByHand(0.2, 0.3) if by_hand else Reference(0.2, 0.3)
    options = {"broadcast_dropout": False, **options}
    port = Port(rates[1], dropout_rate=rates[0], **options)
    fb.load_state_dict(port, reference.state_dict())
    assert failing(parity.check(reference, port, X, **OPTIONS)) == wrong


def test_the_keys_of_its_masks_are_known():
    reference, port = Reference(0.2, 0.3), Port(0.3, dropout_rate=0.2, broadcast_dropout=False)
    fb.load_state_dict(port, reference.state_dict())
    port.attention.rngs = nnx.Rngs(0).fork()["params"]
    port.drop.rngs = nnx.Rngs(0).fork()["params"]  # the same
    report = parity.check(reference, port, X, **OPTIONS)
    assert report.first_divergence.name == "dropout masks"
    assert "calls [[1, 2]] of its Dropout draw from one key" in report.first_divergence.note
