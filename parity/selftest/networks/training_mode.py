"""A network with what evaluation mode does not show: Dropout, and statistics never updated."""

import jax.numpy as jnp
import torch
from flax import nnx
from jaxtyping import Array
from torch import Tensor, nn

from parity.selftest.networks.network import Network, signal


class TorchDrops(nn.Module):
    """BatchNorm, and two hidden layers with Dropout of two rates."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.few, self.many = nn.Dropout(0.25), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 4) → (batch, 3)."""
        y = self.few(torch.relu(self.first(self.norm(x))))
        return self.head(self.many(torch.tanh(self.second(y))))


class Drops(nnx.Module):
    """`TorchDrops` in Flax. Faults can replace each of its steps."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.BatchNorm(4, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.first, self.second = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)
        self.few, self.many = nnx.Dropout(0.25, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """(batch, 4) → (batch, 3)."""
        return self.read(self.hide_again(self.hide(self.norm(x))))

    def hide(self, x: Array) -> Array:
        """The first hidden layer."""
        return self.few(nnx.relu(self.first(x)))

    def hide_again(self, y: Array) -> Array:
        """The second one."""
        return self.many(jnp.tanh(self.second(y)))

    def read(self, y: Array) -> Array:
        """The head."""
        return self.head(y)


TRAINING_MODE = {
    "drops": Network(TorchDrops, Drops, signal((6, 4), (6, 3)), fresh=True),
}
