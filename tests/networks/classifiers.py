"""One output for a whole sequence: classifiers with every kind of attention and head."""

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn

import flax_bilstm as fb

from .network import Network, signal, tokens


class TorchAdditiveAttention(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.W = nn.Linear(features, features)
        self.v = nn.Linear(features, 1, bias=False)

    def forward(self, h):
        weights = torch.softmax(self.v(torch.tanh(self.W(h))), dim=1)
        return (weights * h).sum(1)


class TorchTextClassifier(nn.Module):
    """Pretrained embeddings that are frozen, stacked LSTM with dropout, a Sequential head."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.randn(40, 8), freeze=True)
        self.encoder = nn.LSTM(8, 8, 2, batch_first=True, dropout=0.3, bidirectional=True)
        self.attention = TorchAdditiveAttention(16)
        self.norm = nn.LayerNorm(16)
        self.classifier = nn.Sequential(
            nn.Linear(16, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
        )

    def forward(self, text):
        h, _ = self.encoder(self.embedding(text))
        return self.classifier(self.norm(self.attention(h)))


class AdditiveAttention(nnx.Module):
    def __init__(self, features, rngs):
        self.W = nnx.Linear(features, features, rngs=rngs)
        self.v = nnx.Linear(features, 1, use_bias=False, rngs=rngs)

    def __call__(self, h):
        weights = jax.nn.softmax(self.v(jnp.tanh(self.W(h))), axis=1)
        return (weights * h).sum(1)


class TextClassifier(nnx.Module):
    def __init__(self, rngs):
        self.embedding = nnx.Embed(40, 8, rngs=rngs)
        self.encoder = fb.LSTM(8, 8, num_layers=2, dropout=0.3, bidirectional=True, rngs=rngs)
        self.attention = AdditiveAttention(16, rngs)
        self.norm = nnx.LayerNorm(16, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.classifier = nnx.Sequential(
            nnx.Linear(16, 8, rngs=rngs),
            nnx.relu,
            nnx.Dropout(0.5, rngs=rngs),
            nnx.Linear(8, 3, rngs=rngs),
        )

    def __call__(self, text):
        h, _ = self.encoder(self.embedding(text))
        return self.classifier(self.norm(self.attention(h)))


class TorchVectorAttention(nn.Module):
    """Attention by one raw parameter, and two heads."""

    def __init__(self):
        super().__init__()
        self.bilstm = nn.LSTM(5, 4, batch_first=True, bidirectional=True, bias=False)
        self.w = nn.Parameter(torch.randn(8))
        self.heads = nn.ModuleDict({"label": nn.Linear(8, 3), "score": nn.Linear(8, 1)})
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(3))

    def forward(self, x):
        h, _ = self.bilstm(x)
        weights = torch.softmax(torch.tanh(h) @ self.w, dim=1)
        pooled = torch.tanh((h * weights.unsqueeze(-1)).sum(1))
        return self.heads["label"](pooled), self.heads["score"](pooled)


class VectorAttention(nnx.Module):
    def __init__(self, rngs):
        self.bilstm = fb.LSTM(5, 4, bidirectional=True, bias=False, rngs=rngs)
        self.w = nnx.Param(jnp.zeros(8))
        self.heads = nnx.Dict(label=nnx.Linear(8, 3, rngs=rngs), score=nnx.Linear(8, 1, rngs=rngs))

    def __call__(self, x):
        h, _ = self.bilstm(x)
        weights = jax.nn.softmax(jnp.tanh(h) @ self.w[...], axis=1)
        pooled = jnp.tanh((h * weights[..., None]).sum(1))
        return self.heads["label"](pooled), self.heads["score"](pooled)


class TorchHierarchical(nn.Module):
    """Hierarchical attention: words of a sentence, then sentences of a document."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 5)
        self.word_lstm = nn.LSTM(5, 3, batch_first=True, bidirectional=True)
        self.word_attention = TorchAdditiveAttention(6)
        self.sentence_lstm = nn.LSTM(6, 4, batch_first=True, bidirectional=True)
        self.sentence_attention = TorchAdditiveAttention(8)
        self.fc = nn.Linear(8, 2)

    def forward(self, documents):
        batch, sentences, words = documents.shape
        h, _ = self.word_lstm(self.embed(documents.view(-1, words)))
        h, _ = self.sentence_lstm(self.word_attention(h).view(batch, sentences, -1))
        return self.fc(self.sentence_attention(h))


class Hierarchical(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(30, 5, rngs=rngs)
        self.word_lstm = fb.LSTM(5, 3, bidirectional=True, rngs=rngs)
        self.word_attention = AdditiveAttention(6, rngs)
        self.sentence_lstm = fb.LSTM(6, 4, bidirectional=True, rngs=rngs)
        self.sentence_attention = AdditiveAttention(8, rngs)
        self.fc = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, documents):
        batch, sentences, words = documents.shape
        h, _ = self.word_lstm(self.embed(documents.reshape(-1, words)))
        h, _ = self.sentence_lstm(self.word_attention(h).reshape(batch, sentences, -1))
        return self.fc(self.sentence_attention(h))


class TorchSiamese(nn.Module):
    """One encoder under two names, and a bilinear form."""

    def __init__(self):
        super().__init__()
        self.left = nn.LSTM(4, 3, batch_first=True)
        self.right = self.left
        self.bilinear = nn.Parameter(torch.randn(3, 3))

    def forward(self, a, b):
        (_, (h, _)), (_, (k, _)) = self.left(a), self.right(b)
        return torch.einsum("bi,ij,bj->b", h[-1], self.bilinear, k[-1])


class Siamese(nnx.Module):
    def __init__(self, rngs):
        self.left = fb.LSTM(4, 3, rngs=rngs)
        self.right = self.left
        self.bilinear = nnx.Param(jnp.zeros((3, 3)))

    def __call__(self, a, b):
        (_, (h, _)), (_, (k, _)) = self.left(a), self.right(b)
        return jnp.einsum("bi,ij,bj->b", h[-1], self.bilinear[...], k[-1])


class TorchConvolutional(nn.Module):
    """Convolution and BatchNorm before the LSTM, the last hidden states after it."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(4, 6, 3, padding=1, groups=2), nn.BatchNorm1d(6), nn.PReLU(), nn.MaxPool1d(2)
        )
        self.rnn = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
        self.fc1 = nn.Linear(10, 6)
        self.fc2 = nn.Linear(6, 2)

    def forward(self, x):
        y = self.features(x.transpose(1, 2)).transpose(1, 2)
        _, (h, _) = self.rnn(y)
        return self.fc2(torch.relu(self.fc1(torch.cat([h[-2], h[-1]], dim=1))))


class Convolutional(nnx.Module):
    def __init__(self, rngs):
        self.features = nnx.Sequential(
            nnx.Conv(4, 6, (3,), padding=1, feature_group_count=2, rngs=rngs),
            nnx.BatchNorm(6, momentum=0.9, epsilon=1e-5, rngs=rngs),
            nnx.PReLU(0.25),
        )
        self.rnn = fb.LSTM(6, 5, bidirectional=True, rngs=rngs)
        self.mlp = nnx.List([nnx.Linear(10, 6, rngs=rngs), nnx.Linear(6, 2, rngs=rngs)])

    def __call__(self, x):
        y = nnx.max_pool(self.features(x), (2,), strides=(2,))
        _, (h, _) = self.rnn(y)
        first, second = self.mlp
        return second(nnx.relu(first(jnp.concatenate([h[-2], h[-1]], axis=1))))


NETWORKS = {
    "classifier with additive attention": Network(
        TorchTextClassifier, TextClassifier, (tokens(40, 3, 7),)
    ),
    "attention by a vector, two heads": Network(
        TorchVectorAttention, VectorAttention, (signal(3, 6, 5),), ignore=("criterion.*",)
    ),
    "hierarchical attention": Network(TorchHierarchical, Hierarchical, (tokens(30, 2, 3, 4),)),
    "siamese": Network(TorchSiamese, Siamese, (signal(3, 5, 4), signal(3, 5, 4))),
    "convolution and BatchNorm first": Network(
        TorchConvolutional,
        Convolutional,
        (signal(3, 8, 4),),
        {"mlp.0": "fc1", "mlp.1": "fc2"},
    ),
}
