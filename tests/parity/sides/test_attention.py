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
    assert "notes" not in facts
    stages = {row.name for row in report.rows if row.check == "local"}
    inputs = {f"attention.input.{name}" for name in ("query", "key", "value")}
    assert {"attention", *inputs} <= stages
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


class TwoInputs(torch.nn.Module):
    """Time before the batch; Flax has it after."""

    def __init__(self):
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(4, 2)
        self.out = torch.nn.Linear(4, 3)

    def forward(self, x, memory, padding):
        x, memory = x.swapaxes(0, 1), memory.swapaxes(0, 1)
        y, _ = self.attention(x, memory, memory, key_padding_mask=padding)
        return self.out(y.swapaxes(0, 1))


class PortOfTwo(nnx.Module):
    def __init__(self, memory=lambda memory: memory, keyword=False):
        self.attention = nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0))
        self.out, self.memory, self.keyword = nnx.Linear(4, 3, rngs=nnx.Rngs(0)), memory, keyword

    def __call__(self, x, memory, padding):
        memory, mask = self.memory(memory), ~padding[:, None, None]
        if self.keyword:
            return self.out(self.attention(x, inputs_v=memory, inputs_k=memory, mask=mask))
        return self.out(self.attention(x, memory, mask=mask))


INPUTS = {
    "x": X, "memory": np.random.default_rng(1).standard_normal((3, 6, 4), dtype=np.float32),
    "padding": np.arange(6) >= np.array([[6], [4], [2]]),
}  # fmt: skip


@pytest.mark.parametrize("keyword", [False, True])
def test_every_input_of_it_is_a_stage(quickly_compiled, keyword):
    reference, port = TwoInputs(), PortOfTwo(keyword=keyword)
    fb.load_state_dict(port, reference.state_dict())
    report = parity.check(reference, port, INPUTS, training_steps=0)
    report.assert_passed()
    assert not [note for note in report.notes if "left out" in note]

    port.memory = lambda memory: memory[:, ::-1]
    report = parity.check(reference, port, INPUTS, training_steps=0)
    assert report.first_divergence.name == "attention.input.key"


class Encoder(torch.nn.Module):
    """Has floating numbers for a mask of booleans."""

    def __init__(self):
        super().__init__()
        self.attention, self.out = Masked(), torch.nn.Linear(4, 3)

    def forward(self, x, padding):
        added = torch.zeros(padding.shape, dtype=x.dtype).masked_fill(padding, -torch.inf)
        return self.out(self.attention(x, added[:, None]))


class Masked(torch.nn.Module):
    def forward(self, x, mask):
        return torch.softmax(x @ x.mT + mask, -1) @ x


class FlaxMasked(nnx.Module):
    def __call__(self, x, mask):
        return jax.nn.softmax(jnp.where(mask, -jnp.inf, x @ x.mT), -1) @ x


class PortOfEncoder(nnx.Module):
    def __init__(self):
        self.attention, self.out = FlaxMasked(), nnx.Linear(4, 3, rngs=nnx.Rngs(0))

    def __call__(self, x, padding):
        return self.out(self.attention(x, padding[:, None]))


def test_a_mask_of_another_kind_is_left_out_with_a_note(quickly_compiled):
    reference, port = Encoder(), PortOfEncoder()
    fb.load_state_dict(port, reference.state_dict())
    inputs = {"x": INPUTS["memory"], "padding": INPUTS["padding"]}
    report = parity.check(reference, port, inputs, training_steps=0)
    report.assert_passed()
    (note,) = report.notes
    words = "stages of another shape or kind on either side, left out: attention.input.1"
    assert note == words


@nnx.jit
def transformed(module, x):
    return module(x)


def test_what_a_transformation_calls_is_left_out_with_a_note(quickly_compiled):
    class Outer(Port):
        def __call__(self, x):
            return self.drop(transformed(self.attention, x))

    reference, port = Reference(), Outer()
    fb.load_state_dict(port, reference.state_dict())
    report = parity.check(reference, port, X, training_steps=0)
    report.assert_passed()
    assert any("such as nnx.jit, left out: attention.input" in note for note in report.notes)
