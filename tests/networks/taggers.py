"""One output for every step: taggers, language models, transcription."""

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn

import flax_bilstm as fb

from .network import Network, attend, signal, tokens


class TorchCrfTagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.word_embeds = nn.Embedding(50, 8)
        self.lstm = nn.LSTM(8, 6, num_layers=1, bidirectional=True)
        self.hidden2tag = nn.Linear(12, 5)
        self.transitions = nn.Parameter(torch.randn(5, 5))
        self.start = nn.Parameter(torch.randn(5))
        self.temperature = nn.Parameter(torch.tensor(0.7))

    def forward(self, sentence):
        features, _ = self.lstm(self.word_embeds(sentence).transpose(0, 1))
        emissions = self.hidden2tag(features).transpose(0, 1)
        return (emissions * self.temperature + self.start) @ self.transitions


class CrfTagger(nnx.Module):
    def __init__(self, rngs):
        self.word_embeds = nnx.Embed(50, 8, rngs=rngs)
        self.lstm = fb.LSTM(8, 6, bidirectional=True, time_major=True, rngs=rngs)
        self.hidden2tag = nnx.Linear(12, 5, rngs=rngs)
        self.transitions = nnx.Param(jnp.zeros((5, 5)))
        self.start = nnx.Param(jnp.zeros(5))
        self.temperature = nnx.Param(jnp.zeros(()))

    def __call__(self, sentence):
        features, _ = self.lstm(self.word_embeds(sentence).swapaxes(0, 1))
        emissions = self.hidden2tag(features).swapaxes(0, 1)
        return (emissions * self.temperature[...] + self.start[...]) @ self.transitions[...]


class TorchTiedLanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Embedding(30, 6)
        self.rnn = nn.LSTM(6, 6, 2, batch_first=True)
        self.decoder = nn.Linear(6, 30)
        self.decoder.weight = self.encoder.weight

    def forward(self, text):
        return self.decoder(self.rnn(self.encoder(text))[0])


class TiedLanguageModel(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(30, 6, rngs=rngs)
        self.rnn = fb.LSTM(6, 6, num_layers=2, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(30))

    def __call__(self, text):
        return self.embed.attend(self.rnn(self.embed(text))[0]) + self.bias[...]


class TorchCharacterTagger(nn.Module):
    """Words by an embedding and by a convolution over their characters."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(40, 6)
        self.chars = nn.Embedding(20, 4)
        self.char_cnn = nn.Conv1d(4, 5, kernel_size=3, padding=1)
        self.bilstm = nn.LSTM(11, 4, batch_first=True, bidirectional=True)
        self.out = nn.Linear(8, 3)

    def forward(self, words, chars):
        batch, time, letters = chars.shape
        inside = self.chars(chars).view(batch * time, letters, 4).transpose(1, 2)
        inside = torch.tanh(self.char_cnn(inside)).amax(-1).view(batch, time, 5)
        features = torch.cat([self.words(words), inside], dim=-1)
        return self.out(self.bilstm(features)[0])


class CharacterTagger(nnx.Module):
    def __init__(self, rngs):
        self.words = nnx.Embed(40, 6, rngs=rngs)
        self.chars = nnx.Embed(20, 4, rngs=rngs)
        self.char_cnn = nnx.Conv(4, 5, (3,), padding=1, rngs=rngs)
        self.bilstm = fb.LSTM(11, 4, bidirectional=True, rngs=rngs)
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, words, chars):
        inside = jnp.tanh(self.char_cnn(self.chars(chars))).max(-2)
        features = jnp.concatenate([self.words(words), inside], axis=-1)
        return self.out(self.bilstm(features)[0])


class TorchTranscriber(nn.Module):
    """Two-dimensional convolutions over a spectrogram, then the LSTM."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.Hardtanh(0, 20)
        )
        self.rnn = nn.LSTM(24, 5, num_layers=2, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(10, 7)

    def forward(self, spectrogram):
        y = self.conv(spectrogram.unsqueeze(1)).permute(0, 2, 1, 3).flatten(2)
        return self.fc(self.rnn(y)[0]).log_softmax(-1)


class Transcriber(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Sequential(
            nnx.Conv(1, 4, (3, 3), padding=1, use_bias=False, rngs=rngs),
            nnx.BatchNorm(4, momentum=0.9, epsilon=1e-5, rngs=rngs),
            lambda y: jnp.clip(y, 0, 20),
        )
        self.rnn = fb.LSTM(24, 5, num_layers=2, bidirectional=True, rngs=rngs)
        self.fc = nnx.Linear(10, 7, rngs=rngs)

    def __call__(self, spectrogram):
        y = self.conv(spectrogram[..., None]).transpose(0, 1, 3, 2)
        y = y.reshape(*y.shape[:2], -1)
        return jax.nn.log_softmax(self.fc(self.rnn(y)[0]))


class TorchSelfAttentionTagger(nn.Module):
    """`nn.MultiheadAttention` over the LSTM's outputs, with a residual and a norm."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(5, 4, batch_first=True, bidirectional=True)
        self.self_attn = nn.MultiheadAttention(8, num_heads=2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        y, _ = self.lstm(x)
        attended, _ = self.self_attn(y, y, y, need_weights=False)
        return self.out(self.norm(y + attended))


class SelfAttentionTagger(nnx.Module):
    def __init__(self, rngs):
        self.lstm = fb.LSTM(5, 4, bidirectional=True, rngs=rngs)
        self.self_attn = nnx.MultiHeadAttention(2, 8, attention_fn=attend, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(8, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        y, _ = self.lstm(x)
        return self.out(self.norm(y + self.self_attn(y)))


NETWORKS = {
    "tagger with CRF scores": Network(TorchCrfTagger, CrfTagger, (tokens(50, 3, 7),)),
    "tied language model": Network(
        TorchTiedLanguageModel,
        TiedLanguageModel,
        (tokens(30, 3, 7),),
        {"embed": ("encoder", "decoder"), "bias": "decoder.bias"},
    ),
    "tagger with characters": Network(
        TorchCharacterTagger, CharacterTagger, (tokens(40, 2, 5), tokens(20, 2, 5, 6))
    ),
    "transcriber": Network(TorchTranscriber, Transcriber, (signal(2, 7, 6),)),
    "tagger with multi-head attention": Network(
        TorchSelfAttentionTagger, SelfAttentionTagger, (signal(2, 6, 5),)
    ),
}
