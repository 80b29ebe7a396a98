"""Networks that read numbers: a convolution with BatchNorm, attention of several heads."""

from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from jaxtyping import Array
from torch import Tensor, nn

from parity.selftest.networks.network import Network, signal

BATCH, TIME = 3, 6


class TorchConvolution(nn.Module):
    """Convolution, BatchNorm, ReLU, the largest of every two steps, a head on all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4 * TIME // 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, 4) → (batch, 3)."""
        y = torch.relu(self.norm(self.conv(x.transpose(1, 2))))
        return self.head(nn.functional.max_pool1d(y, 2).flatten(1))


class Convolution(nnx.Module):
    """`TorchConvolution` in Flax, channels last. Faults can replace the code between its layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(4, 4, (3,), padding=1, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.head = nnx.Linear(4 * TIME // 2, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """(batch, time, 4) → (batch, 3)."""
        return self.head(self.flatten(self.pool(self.activate(self.norm(self.conv(x))))))

    def activate(self, z: Array) -> Array:
        """ReLU."""
        return nnx.relu(z)

    def pool(self, y: Array) -> Array:
        """The largest of every two steps."""
        return nnx.max_pool(y, (2,), strides=(2,))

    def flatten(self, y: Array) -> Array:
        """Channel by channel, as PyTorch lays them out."""
        return y.swapaxes(1, 2).reshape(len(y), -1)


class TorchHeads(nn.Module):
    """Attention of two heads with a residual and a norm, read at the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, 4) → (batch, 3)."""
        attended, _ = self.attention(x, x, x, need_weights=False)
        return self.head(self.norm(x + attended)[:, -1])


class Heads(nnx.Module):
    """`TorchHeads` in Flax. Faults can replace the code between its layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.attention = nnx.MultiHeadAttention(
            2, 4, attention_fn=lambda *given, **options: self.attend(*given), decode=False,
            rngs=rngs,
        )  # fmt: skip
        self.norm = nnx.LayerNorm(4, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """(batch, time, 4) → (batch, 3)."""
        return self.head(self.read(self.norm(self.join(x, self.attention(x)))))

    @staticmethod
    def attend(query: Array, key: Array, value: Array) -> Array:
        """Scaled attention in the arrays' dtype: JAX's function computes its softmax in float32."""
        scores = jnp.einsum("...qhd,...khd->...hqk", query, key) / query.shape[-1] ** 0.5
        return jnp.einsum("...hqk,...khd->...qhd", jax.nn.softmax(scores), value)

    def join(self, x: Array, attended: Array) -> Any:
        """The residual."""
        return x + attended

    def read(self, y: Array) -> Array:
        """The last step."""
        return y[:, -1]


SIGNALS = {
    "convolution": Network(TorchConvolution, Convolution, signal((BATCH, TIME, 4), (BATCH, 3))),
    "heads": Network(TorchHeads, Heads, signal((BATCH, TIME, 4), (BATCH, 3))),
}
