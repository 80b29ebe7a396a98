"""Mistakes in masks, products and quotients are named, whichever function puts the mask on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import parity

from .words import words_of

pytestmark = pytest.mark.usefixtures("operation_by_operation")

SIZE = 4
RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, SIZE, SIZE)).astype(np.float32)
MASK = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 1, 1], [0, 1, 0, 1]], bool)  # none is empty


class Attends(torch.nn.Module):
    """Attention with a mask, which is true where attention is allowed."""

    def __init__(self, put_on):
        super().__init__()
        self.query = torch.nn.Linear(SIZE, SIZE)
        self.put_on = put_on

    def forward(self, x, mask):
        return torch.tanh(self.put_on(self.query(x), x, mask.bool()))


def by_filling(q, x, mask):
    return torch.softmax((q @ x.mT).masked_fill(~mask, -1e9), -1) @ x


def by_where(q, x, mask):
    return torch.softmax(torch.where(mask, q @ x.mT, -torch.inf), -1) @ x


def by_sum(q, x, mask):
    added = torch.zeros(mask.shape, dtype=q.dtype).masked_fill(~mask, -torch.inf)
    return torch.softmax(q @ x.mT + added, -1) @ x


def fused(q, x, mask):
    fused = torch.nn.functional.scaled_dot_product_attention
    return fused(q * SIZE**0.5, x, x, attn_mask=mask)


def attends(w, x, mask):
    q = x @ w["query.weight"].T + w["query.bias"]
    scores = q @ x.swapaxes(1, 2)
    return jnp.tanh(jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), -1) @ x)


IN_MASKS = {
    "the mask is missing": lambda mask: mask | True,
    "the mask is inverted": lambda mask: ~mask,
}


@pytest.mark.parametrize("words", IN_MASKS)
@pytest.mark.parametrize("put_on", [by_filling, by_where, by_sum, fused])
def test_a_wrong_mask_is_named(put_on, words):
    torch.manual_seed(0)
    model = Attends(put_on)
    inputs = {"x": X, "mask": MASK}

    def check(wrong):
        def port(w, x, mask):
            return attends(w, x, wrong(mask))

        with jax.numpy_rank_promotion("allow"):
            return parity.check(model, port, inputs, dtypes=["float64"], training_steps=0)

    assert check(lambda mask: mask).passed
    assert words_of(check(IN_MASKS[words]).first_divergence.note) == words


class Gate(torch.nn.Module):
    """Terms, factors and a quotient, between layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (torch.nn.Linear(SIZE, SIZE) for _ in range(3))

    def forward(self, x):
        x = self.a(x * torch.sigmoid(x))
        x = self.b(x / torch.cosh(x))
        return self.c(x.flip(1) + x.mean(1, keepdim=True))


LEFT_OUT = {
    "the first factor of a product is missing": "first",
    "the second factor of a product is missing": "second",
    "a division is missing": "divided",
    "the second term of a sum is missing": "mean",
}


def gate(w, x, leave_out):
    def layer(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    gates = {"first": jax.nn.sigmoid(x), "second": x}
    x = layer("a", gates.get(leave_out, x * jax.nn.sigmoid(x)))
    x = layer("b", x if leave_out == "divided" else x / jnp.cosh(x))
    mean = 0 if leave_out == "mean" else x.mean(1, keepdims=True)
    return layer("c", x[:, ::-1] + mean)


@pytest.mark.parametrize("words", LEFT_OUT)
def test_an_operand_that_is_left_out_is_named(words):
    torch.manual_seed(0)
    with jax.numpy_rank_promotion("allow"):
        report = parity.check(
            Gate(),
            lambda w, x: gate(w, x, LEFT_OUT[words]),
            X,
            dtypes=["float64"],
            training_steps=0,
        )
    assert words_of(report.first_divergence.note) == words
