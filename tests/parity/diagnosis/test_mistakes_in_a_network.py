"""Mistakes in layers, in attention and between layers are named.

The network is small, with sizes at which no two mistakes look alike.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")

from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import flax_bilstm as fb
import parity
from parity.comparison import NEVER_TRAINED
from parity.selftest import pieces

from .words import words_of

pytestmark = pytest.mark.usefixtures("operation_by_operation")


class Attends(torch.nn.Module):
    """Embedding, attention of a sequence with itself, residual, norm, SiLU layer; last and mean."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(7, 4)
        self.norm = torch.nn.LayerNorm(4, eps=1e-2)
        self.hidden = torch.nn.Linear(4, 5)
        torch.nn.init.normal_(self.norm.weight)
        torch.nn.init.normal_(self.norm.bias)

    def forward(self, tokens):
        x = self.embedding(tokens)
        y = self.norm(x + torch.softmax(x @ x.mT, dim=-1) @ x)
        y = torch.nn.functional.silu(self.hidden(y))
        return torch.cat([y[:, -1], y.mean(1)], dim=-1)


def attends(
    w,
    tokens,
    embed=lambda x: x,
    operand=lambda x: x,
    query=lambda x: x,
    key=lambda x: x,
    scale=lambda s: s,
    weigh=lambda s: jax.nn.softmax(s, axis=-1),
    add=lambda x, y: x + y,
    eps=1e-2,
    shift=1,
    enter=lambda y: y,
    bias=1,
    leave=lambda z: z,
    act=jax.nn.silu,
    last=lambda y: y[:, -1],
    mean=lambda y: y.mean(1),
    join=lambda last, mean: jnp.concatenate([last, mean], axis=-1),
):
    """`Attends` in JAX, with an argument for each mistake."""
    x = embed(w["embedding.weight"][tokens])
    scores = jnp.einsum("bqf,bkf->bqk", operand(query(x)), operand(key(x)))
    y = add(x, operand(weigh(scale(scores))) @ operand(x))
    y = y - y.mean(-1, keepdims=True)
    y = y / jnp.sqrt((y**2).mean(-1, keepdims=True) + eps)
    y = y * w["norm.weight"] + shift * w["norm.bias"]
    y = act(leave(enter(y) @ w["hidden.weight"].T + bias * w["hidden.bias"]))
    return join(last(y), mean(y))


@jax.custom_vjp
def float32_backwards(values):
    return values


float32_backwards.defvjp(lambda values: (values, None), lambda _, slope: (pieces.float32(slope),))

IN_FUNCTIONS = {
    "the embedding is multiplied by √d": {"embed": lambda x: 2 * x},
    "products between layers are computed in float32": {"operand": pieces.float32},
    "scores are 1/d of what they should be": {"scale": lambda s: s / 4},
    "scores are 1/√d of what they should be, d half of those features": {
        "scale": lambda s: s / 2**0.5
    },
    "the softmax is taken twice": {"weigh": lambda s: jax.nn.softmax(jax.nn.softmax(s))},
    "later steps are masked after the softmax, so that the weights do not add up to 1": {
        "weigh": lambda s: jax.nn.softmax(s) * jnp.tril(jnp.ones(s.shape[-2:]))[None]
    },
    "the second term of a sum is missing": {"add": lambda x, y: x},
    "the epsilon is 1e-05, PyTorch's default": {"eps": 1e-5},
    "the epsilon is 0.001, Keras's default": {"eps": 1e-3},
    "the norm's bias is missing": {"shift": 0},
    "the bias is added twice": {"bias": 2},
    "sigmoid is applied to the output": {"leave": jax.nn.sigmoid},
    "tanh is applied to the output": {"leave": jnp.tanh},
    "relu is applied to the output": {"leave": jax.nn.relu},
    "the activation is gelu (exact)": {"act": lambda z: jax.nn.gelu(z, approximate=False)},
    "the activation is sigmoid": {"act": jax.nn.sigmoid},
    "the activation is tanh": {"act": jnp.tanh},
    "the activation is elu": {"act": jax.nn.elu},
    "the activation is softplus": {"act": jax.nn.softplus},
    "the activation is mish": {"act": jax.nn.mish},
    "the activation is x σ(1.702 x), a fast GELU": {"act": lambda z: z * jax.nn.sigmoid(1.702 * z)},
    "the activation is taken twice": {"act": lambda z: jax.nn.silu(jax.nn.silu(z))},
    "the step before the last is read, not the last": {"last": lambda y: y[:, -2]},
    "the sum of all steps is read, not the last": {"last": lambda y: y.sum(1)},
    "the largest of all steps is read, not the last": {"last": lambda y: y.max(1)},
    "the mean over an axis is its first step": {"mean": lambda y: y[:, 0]},
    "what is put together is in the other order": {
        "join": lambda last, mean: jnp.concatenate([mean, last], axis=-1)
    },
    "no gradient flows into the keys": {"key": jax.lax.stop_gradient},
    "no gradient flows into the queries": {"query": jax.lax.stop_gradient},
    "no gradient flows into the layer's input": {"enter": jax.lax.stop_gradient},
    "the layer's gradient is rounded to float32": {"leave": float32_backwards},
}


@pytest.mark.parametrize("words", IN_FUNCTIONS)
def test_a_mistake_in_a_network_is_named(words):
    torch.manual_seed(0)
    x = np.array([[0, 3, 6], [2, 2, 5]])
    with jax.numpy_rank_promotion("allow"):
        report = parity.check(
            Attends(),
            lambda w, x: attends(w, x, **IN_FUNCTIONS[words]),
            x,
            dtypes=["float64"],
            training_steps=0,
        )
    assert words_of(report.first_divergence.note) == words


class Multiplies(torch.nn.Module):
    """Products with raw parameters, without a softmax."""

    def __init__(self):
        super().__init__()
        self.left, self.right = (torch.nn.Parameter(torch.randn(4, 4)) for _ in range(2))

    def forward(self, x):
        return torch.tanh(self.left @ x), torch.tanh(x @ self.right)


IN_PRODUCTS = {
    "no gradient flows into the first factor of the product": "left",
    "no gradient flows into the second factor of the product": "right",
}


@pytest.mark.parametrize("words", IN_PRODUCTS)
def test_a_mistake_in_a_product_without_attention_speaks_of_none(words):
    def stopped(w, x):
        stopped = {**w, IN_PRODUCTS[words]: jax.lax.stop_gradient(w[IN_PRODUCTS[words]])}
        return jnp.tanh(stopped["left"] @ x), jnp.tanh(x @ stopped["right"])

    x = np.random.default_rng(0).integers(0, 2, (4, 4)).astype(np.float32)  # has no gradient
    report = parity.check(Multiplies(), stopped, x, dtypes=["float64"], training_steps=0)
    assert words_of(report.first_divergence.note) == words


class Norm(torch.nn.Module):
    """A norm with a scale of 1: without a gradient at it, it seems to be missing."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(4)

    def forward(self, x):
        return torch.tanh(self.norm(x))


def test_a_mistake_of_gradients_leaves_the_forward_pass_right_on_other_numbers():
    def stopped(w, x):
        y = x - x.mean(-1, keepdims=True)
        y = y / jnp.sqrt((y**2).mean(-1, keepdims=True) + 1e-5)
        return jnp.tanh(y * jax.lax.stop_gradient(w["norm.weight"]) + w["norm.bias"])

    x = np.random.default_rng(0).standard_normal((5, 4), dtype=np.float32)
    with jax.numpy_rank_promotion("allow"):
        report = parity.check(Norm(), stopped, x, dtypes=["float64"], training_steps=0)
    assert "no gradient arrives at norm.weight: it is zero" in report.first_divergence.note


class Embeds(torch.nn.Module):
    def __init__(self, frozen=False):
        super().__init__()
        self.embedding = torch.nn.Embedding(7, 4, padding_idx=0)
        self.embedding.weight.requires_grad_(not frozen)
        self.out = torch.nn.Linear(4, 3)

    def forward(self, tokens):
        return torch.tanh(self.out(self.embedding(tokens)))


class FlaxEmbeds(nnx.Module):
    def __init__(self):
        self.embedding = nnx.Embed(7, 4, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(4, 3, rngs=nnx.Rngs(0))

    def __call__(self, tokens):
        return jnp.tanh(self.out(self.embedding(tokens)))


IN_EMBEDDINGS = {"the row of padding_idx has a gradient": False, NEVER_TRAINED: True}


@pytest.mark.parametrize("words", IN_EMBEDDINGS)
def test_a_mistake_in_the_gradient_of_an_embedding_is_named(words, lenient):
    reference, port = Embeds(IN_EMBEDDINGS[words]), FlaxEmbeds()
    fb.load_state_dict(port, reference.state_dict())
    x = np.array([[1, 3, 6], [2, 0, 5]])
    first = parity.check(reference, port, x, dtypes=["float64"], training_steps=0).first_divergence
    assert first.name == "embedding.weight"
    assert words in first.note


class Packs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.lstm = torch.nn.Linear(3, 4), torch.nn.LSTM(4, 5, batch_first=True)

    def forward(self, x, lengths):
        y = pack_padded_sequence(self.a(x), lengths.cpu(), True, enforce_sorted=False)
        return pad_packed_sequence(self.lstm(y)[0], True, total_length=x.shape[1])[0]


class FlaxPacks(nnx.Module):
    def __init__(self):
        self.a = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
        self.lstm = fb.LSTM(4, 5, rngs=nnx.Rngs(0))

    def __call__(self, x, lengths):
        return self.lstm(self.a(x))[0]


def test_lengths_that_are_not_read_are_named():
    reference, port = Packs(), FlaxPacks()
    fb.load_state_dict(port, reference.state_dict())
    x = np.random.default_rng(0).standard_normal((3, 5, 3), dtype=np.float32)
    inputs = {"x": x, "lengths": np.array([5, 2, 3])}
    report = parity.check(reference, port, inputs, dtypes=["float64"], training_steps=0)
    assert report.first_divergence.name == "lstm.input"
    assert "it has numbers in the padding: lengths are not read" in report.first_divergence.note
