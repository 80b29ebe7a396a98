"""Ports without a library: raw parameters in a module, and functions of a state dict."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from jaxtyping import Array
from torch import Tensor, nn

from parity.selftest.networks.decoders import BATCH, TIME, TorchRecurrent
from parity.selftest.networks.network import Network, signal

StateDict = Mapping[str, Array]


class TorchRaw(nn.Module):
    """Attention by one vector over tanh of a matrix product, with raw parameters only."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(4, 4))
        self.query = nn.Parameter(torch.randn(4))
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.offset = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, 4) → (batch, 4)."""
        y = torch.tanh(x @ self.matrix)
        weights = torch.softmax(y @ self.query * self.scale, dim=1)
        return (weights[..., None] * x).sum(1) + self.offset


class Raw(nnx.Module):
    """`TorchRaw` in Flax; faults can replace each of its methods."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.matrix = nnx.Param(jnp.zeros((4, 4)))
        self.query = nnx.Param(jnp.zeros(4))
        self.scale = nnx.Param(jnp.zeros(()))
        self.offset = nnx.Param(jnp.zeros(4))

    def __call__(self, x: Array) -> Array:
        """(batch, time, 4) → (batch, 4)."""
        weights = self.weigh(self.hide(x) @ self.query[...] * self.scale[...])
        return self.mix(weights, x) + self.offset[...]

    def hide(self, x: Array) -> Array:
        """The keys: tanh of a matrix product."""
        return jnp.tanh(x @ self.matrix[...])

    def weigh(self, scores: Array) -> Array:
        """A softmax over time."""
        return jax.nn.softmax(scores, axis=1)

    def mix(self, weights: Array, x: Array) -> Array:
        """The mean of x with these weights."""
        return (weights[..., None] * x).sum(1)


def step(w: StateDict, suffix: str, h: Array, c: Array, x: Array) -> tuple[Array, Array]:
    """One step of one sequence: the new hidden and cell state."""
    z = w[f"rnn.weight_ih_{suffix}"] @ x + w[f"rnn.bias_ih_{suffix}"]
    z = z + w[f"rnn.weight_hh_{suffix}"] @ h + w[f"rnn.bias_hh_{suffix}"]
    i, f, g, o = jnp.split(z, 4)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def direction(w: StateDict, x: Array, suffix: str, reverse: bool) -> Array:
    """A direction over one sequence (time, features) by `jax.lax.scan`."""

    def body(state: tuple[Array, Array], x: Array) -> Any:
        h, c = step(w, suffix, *state, x)
        return (h, c), h

    zeros = jnp.zeros(w[f"rnn.weight_hh_{suffix}"].shape[1], x.dtype)
    return jax.lax.scan(body, (zeros, zeros), x, reverse=reverse)[1]


def head(w: StateDict, y: Array) -> Array:
    """The head on the last step of one sequence."""
    return w["head.weight"] @ y[-1] + w["head.bias"]


def recurrent(w: StateDict, x: Array) -> Array:
    """`TorchRecurrent`, each sequence alone, by `jax.vmap`."""

    def one(x: Array) -> Array:
        runs = [direction(w, x, "l0", False), direction(w, x, "l0_reverse", True)]
        return head(w, jnp.concatenate(runs, axis=-1))

    return jax.vmap(one)(x)


class TorchMasked(nn.Module):
    """Scores beside the same scores behind a mask; the parameter has the name of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(batch, time, 4) → two arrays of this shape."""
        scores = x * self.x
        return {"scores": scores, "masked": scores.masked_fill(x > 0, FILL)}


FILL = -1e9


def scaled(weight: Array, x: Array) -> Array:
    """The scores."""
    return weight * x


def fill(scores: Array, mask: Array) -> Array:
    """The scores, with `FILL` behind the mask."""
    return jnp.where(mask, FILL, scores)


def masked(w: StateDict, x: Array) -> dict[str, Array]:
    """`TorchMasked`."""
    scores = scaled(w["x"], x)
    return {"scores": scores, "masked": fill(scores, x > 0)}


class TorchSpectrum(nn.Module):
    """The complex spectrum of a weighted signal."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, 4) → (batch, time // 2 + 1, 4)."""
        return torch.fft.rfft(x * self.weight, dim=1)


def fourier(x: Array) -> Array:
    """The spectrum along time."""
    return jnp.fft.rfft(x, axis=1)


def spectrum(w: StateDict, x: Array) -> Array:
    """`TorchSpectrum`."""
    return fourier(x * w["weight"])


BY_HAND = {
    "raw": Network(TorchRaw, Raw, signal((BATCH, TIME, 4), (BATCH, 4))),
    "function": Network(
        TorchRecurrent, recurrent, signal((BATCH, TIME, 4), (BATCH, 3)), function=True
    ),
    "mask": Network(
        TorchMasked, masked, signal((BATCH, TIME, 4), (2 * BATCH * TIME * 4,)), function=True
    ),
    "spectrum": Network(
        TorchSpectrum,
        spectrum,
        signal((BATCH, TIME, 4), (BATCH, TIME // 2 + 1, 4, 2)),
        function=True,
    ),
}
