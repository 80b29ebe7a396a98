"""Networks that step a cell: an encoder with a decoder, and a cell run by Flax's own loops."""

from typing import Any

import jax.numpy as jnp
import torch
from flax import nnx
from jaxtyping import Array
from torch import Tensor, nn

import flax_bilstm as fb
from parity.selftest.networks.network import Network, signal

BATCH, TIME, AHEAD = 3, 5, 3
Carry = tuple[Array, Array]


class TorchDecoder(nn.Module):
    """An LSTM encodes; an LSTMCell continues from its states and reads its own previous output."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(4, 4, batch_first=True)
        self.cell = nn.LSTMCell(4, 4)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, 4) → (batch, ahead, 4)."""
        _, (h, c) = self.encoder(x)
        state, last, outputs = (h[-1], c[-1]), x[:, -1], []
        for _ in range(AHEAD):
            state = self.cell(last, state)
            last = self.head(state[0])
            outputs.append(last)
        return torch.stack(outputs, dim=1)


class Decoder(nnx.Module):
    """`TorchDecoder` in Flax. Faults can replace the code between its layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.encoder = fb.LSTM(4, 4, rngs=rngs)
        self.cell = fb.LSTMCell(4, 4, rngs=rngs)
        self.head = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """(batch, time, 4) → (batch, ahead, 4)."""
        carry = self.begin(*self.encoder(x)[1])
        last, outputs = self.first(x), []
        for _ in range(AHEAD):
            carry, h = self.cell(carry, last)
            outputs.append(self.head(h))
            last = self.feed(outputs[-1], x)
        return jnp.stack(outputs, axis=1)

    def begin(self, h: Array, c: Array) -> Carry:
        """The decoder's carry (c, h), from the encoder's final states."""
        return c[-1], h[-1]

    def first(self, x: Array) -> Array:
        """The first input of the decoder."""
        return x[:, -1]

    def feed(self, said: Array, x: Array) -> Array:
        """The next input of the decoder."""
        return said


class TorchRecurrent(nn.Module):
    """A layer in both directions, and a head on the last step."""

    def __init__(self, inputs: int = 4, hidden: int = 4, outputs: int = 3) -> None:
        super().__init__()
        self.rnn = nn.LSTM(inputs, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, 4) → (batch, 3)."""
        return self.head(self.rnn(x)[0][:, -1])


class Recurrent(nnx.Module):
    """`TorchRecurrent` by `nnx.RNN`. Faults can replace how its loops run."""

    def __init__(self, rngs: nnx.Rngs, inputs: int = 4, hidden: int = 4, outputs: int = 3) -> None:
        runs = [nnx.RNN(fb.LSTMCell(inputs, hidden, rngs=rngs)) for _ in range(2)]
        self.rnn = nnx.Bidirectional(*runs)
        self.head = nnx.Linear(2 * hidden, outputs, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """(batch, time, 4) → (batch, 3)."""
        return self.head(self.read(self.run(x)))

    def run(self, x: Array) -> Array:
        """Both directions side by side."""
        y: Any = self.rnn(x)
        return y

    def read(self, y: Array) -> Array:
        """The last step."""
        return y[:, -1]


DECODERS = {
    "decoder": Network(TorchDecoder, Decoder, signal((BATCH, TIME, 4), (BATCH, AHEAD, 4))),
    "nnx.RNN": Network(TorchRecurrent, Recurrent, signal((BATCH, TIME, 4), (BATCH, 3))),
}
