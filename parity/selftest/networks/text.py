"""Networks that read tokens: a tagger, a classifier, a language model."""

from typing import Any

import jax.numpy as jnp
import torch
from flax import nnx
from jaxtyping import Array
from torch import Tensor, nn

import flax_bilstm as fb
from parity.selftest.networks.network import Network, tokens

VOCABULARY, BATCH, TIME = 12, 3, 6
FEATURES, HIDDEN = 4, 3
"""Of the tagger."""


class TorchTagger(nn.Module):
    """Embedding, stacked LSTM in both directions, a score for every step."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, FEATURES)
        self.encoder = nn.LSTM(FEATURES, HIDDEN, 2, batch_first=True, bidirectional=True)
        self.tags = nn.Linear(2 * HIDDEN, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (batch, time, 6)."""
        return self.tags(self.encoder(self.embedding(x))[0])


class Tagger(nnx.Module):
    """`TorchTagger` in Flax. Faults can replace the code between its layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embedding = nnx.Embed(VOCABULARY, FEATURES, rngs=rngs)
        self.encoder = fb.LSTM(FEATURES, HIDDEN, num_layers=2, bidirectional=True, rngs=rngs)
        self.tags = nnx.Linear(2 * HIDDEN, 6, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Scores (batch, time, 6)."""
        return self.tags(self.read(self.encoder(self.embed(x))[0]))

    def embed(self, x: Array) -> Any:
        """The input of the LSTM."""
        return self.embedding(x)

    def read(self, y: Array) -> Array:
        """The values from which the scores are computed."""
        return y


class TorchClassifier(nn.Module):
    """Embedding, LayerNorm, a GELU layer with a residual, the mean over time, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 6)
        self.norm = nn.LayerNorm(6)
        self.hidden = nn.Linear(6, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (batch, 4)."""
        y = self.norm(self.embedding(x))
        y = y + nn.functional.gelu(self.hidden(y))
        return self.head(y.mean(1))


class Classifier(nnx.Module):
    """`TorchClassifier` in Flax. Faults can replace the code between its layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embedding = nnx.Embed(VOCABULARY, 6, rngs=rngs)
        self.norm = nnx.LayerNorm(6, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.hidden = nnx.Linear(6, 6, rngs=rngs)
        self.head = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Scores (batch, 4)."""
        y = self.norm(self.embed(x))
        return self.head(self.pool(self.join(y, self.activate(self.hidden(y)))))

    def embed(self, x: Array) -> Any:
        """The input of the norm."""
        return self.embedding(x)

    def activate(self, z: Array) -> Array:
        """GELU by the error function, PyTorch's default."""
        return nnx.gelu(z, approximate=False)

    def join(self, y: Array, z: Array) -> Array:
        """The residual."""
        return y + z

    def pool(self, y: Array) -> Array:
        """The mean over time."""
        return y.mean(1)


class TorchLanguageModel(nn.Module):
    """An LSTM whose embedding is also the weight of its head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(VOCABULARY, 4)
        self.rnn = nn.LSTM(4, 4, batch_first=True)
        self.decoder = nn.Linear(4, VOCABULARY)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        """Logarithms of the next token's probabilities (batch, time, vocabulary)."""
        return torch.log_softmax(self.decoder(self.rnn(self.encoder(x))[0]), -1)


class LanguageModel(nnx.Module):
    """`TorchLanguageModel` in Flax. Faults can replace the code between its layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(VOCABULARY, 4, rngs=rngs)
        self.rnn = fb.LSTM(4, 4, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(VOCABULARY))

    def __call__(self, x: Array) -> Array:
        """Logarithms of the next token's probabilities (batch, time, vocabulary)."""
        return self.normalize(self.decode(self.rnn(self.embed(x))[0]))

    def decode(self, y: Array) -> Array:
        """Scores of every token, by the embedding."""
        return y @ self.embed.embedding[...].T + self.bias[...]

    def normalize(self, scores: Array) -> Array:
        """The logarithm of their softmax."""
        return nnx.log_softmax(scores)


TEXT = {
    "tagger": Network(TorchTagger, Tagger, tokens(VOCABULARY, (BATCH, TIME), (BATCH, TIME, 6))),
    "classifier": Network(
        TorchClassifier, Classifier, tokens(VOCABULARY, (BATCH, TIME), (BATCH, 4))
    ),
    "language model": Network(
        TorchLanguageModel,
        LanguageModel,
        tokens(VOCABULARY, (BATCH, TIME), (BATCH, TIME, VOCABULARY)),
        {"embed": ("encoder", "decoder"), "bias": "decoder.bias"},
    ),
}
