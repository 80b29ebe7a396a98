"""Numbers in, numbers out: forecasting, regression, reconstruction."""

import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn

import flax_bilstm as fb

from .network import Network, attend, signal


class TorchProjected(nn.Module):
    """A projection, GroupNorm, and quantiles."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 8, 2, batch_first=True, proj_size=4)
        self.gn = nn.GroupNorm(2, 4)
        self.quantiles = nn.Linear(4, 3)

    def forward(self, x):
        return self.quantiles(self.gn(self.rnn(x)[0][:, -1]))


class Projected(nnx.Module):
    def __init__(self, rngs):
        self.rnn = fb.LSTM(3, 8, num_layers=2, proj_size=4, rngs=rngs)
        self.gn = nnx.GroupNorm(4, 2, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.quantiles = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.quantiles(self.gn(self.rnn(x)[0][:, -1]))


class TorchAutoencoder(nn.Module):
    """A transposed convolution behind the LSTM."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv1d(3, 4, kernel_size=2, stride=2)
        self.lstm = nn.LSTM(4, 5, batch_first=True)
        self.up = nn.ConvTranspose1d(5, 3, kernel_size=2, stride=2)

    def forward(self, x):
        y = self.lstm(self.down(x.transpose(1, 2)).transpose(1, 2))[0]
        return self.up(y.transpose(1, 2)).transpose(1, 2)


class Autoencoder(nnx.Module):
    def __init__(self, rngs):
        self.down = nnx.Conv(3, 4, (2,), strides=2, padding="VALID", rngs=rngs)
        self.lstm = fb.LSTM(4, 5, rngs=rngs)
        self.up = nnx.ConvTranspose(5, 3, (2,), strides=2, padding="VALID", rngs=rngs)

    def __call__(self, x):
        return self.up(self.lstm(self.down(x))[0])


class TorchNormalized(nn.Module):
    """RMSNorm, a residual MLP in a Sequential of Sequentials, a scalar output."""

    def __init__(self):
        super().__init__()
        self.norm = nn.RMSNorm(6, eps=1e-6)
        self.lstm = nn.LSTM(6, 6, num_layers=3)
        self.net = nn.Sequential(
            nn.Sequential(nn.Linear(6, 5), nn.SiLU()), nn.Sequential(nn.Linear(5, 1))
        )

    def forward(self, x):
        y, _ = self.lstm(self.norm(x))
        return self.net(y[-1] + x[-1]).squeeze(-1)


class Normalized(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.RMSNorm(6, epsilon=1e-6, rngs=rngs)
        self.lstm = fb.LSTM(6, 6, num_layers=3, time_major=True, rngs=rngs)
        self.net = nnx.Sequential(
            nnx.Sequential(nnx.Linear(6, 5, rngs=rngs), nnx.silu),
            nnx.Sequential(nnx.Linear(5, 1, rngs=rngs)),
        )

    def __call__(self, x):
        y, _ = self.lstm(self.norm(x))
        return self.net(y[-1] + x[-1]).squeeze(-1)


class TorchCrossAttention(nn.Module):
    """Two LSTMs; one's outputs ask the other's, which are of another width."""

    def __init__(self):
        super().__init__()
        self.past = nn.LSTM(3, 6, batch_first=True)
        self.known = nn.LSTM(2, 4, batch_first=True)
        self.cross = nn.MultiheadAttention(6, 3, kdim=4, vdim=4, bias=False, batch_first=True)
        self.out = nn.Linear(6, 1)

    def forward(self, past, known):
        queries, (memory, _) = self.past(past)[0], self.known(known)
        attended, _ = self.cross(queries, memory, memory)
        return self.out(queries + attended)


class CrossAttention(nnx.Module):
    def __init__(self, rngs):
        self.past = fb.LSTM(3, 6, rngs=rngs)
        self.known = fb.LSTM(2, 4, rngs=rngs)
        self.cross = nnx.MultiHeadAttention(
            3, 6, in_kv_features=4, use_bias=False, attention_fn=attend, decode=False, rngs=rngs
        )
        self.out = nnx.Linear(6, 1, rngs=rngs)

    def __call__(self, past, known):
        queries, (memory, _) = self.past(past)[0], self.known(known)
        return self.out(queries + self.cross(queries, memory))


class TorchSubclassed(nn.Module):
    """Subclasses of layers, a learned initial state, an unused layer in the checkpoint."""

    class Encoder(nn.LSTM):
        pass

    def __init__(self):
        super().__init__()
        self.h0 = nn.Parameter(torch.zeros(2, 1, 4))
        self.c0 = nn.Parameter(torch.randn(2, 1, 4))
        self.rnn = self.Encoder(3, 4, batch_first=True, bidirectional=True)
        self.decoder = nn.Linear(8, 3)
        self.old_decoder = nn.Linear(8, 5)

    def forward(self, x):
        state = tuple(s.expand(-1, len(x), -1).contiguous() for s in (self.h0, self.c0))
        return self.decoder(self.rnn(x, state)[0])


class Subclassed(nnx.Module):
    class Encoder(fb.LSTM):
        pass

    def __init__(self, rngs):
        self.h0 = nnx.Param(jnp.ones((2, 1, 4)))
        self.c0 = nnx.Param(jnp.ones((2, 1, 4)))
        self.rnn = self.Encoder(3, 4, bidirectional=True, rngs=rngs)
        self.decoder = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        state = tuple(jnp.broadcast_to(s[...], (2, len(x), 4)) for s in (self.h0, self.c0))
        return self.decoder(self.rnn(x, state)[0])


NETWORKS = {
    "forecast with a projection": Network(TorchProjected, Projected, (signal(3, 7, 3),)),
    "autoencoder": Network(TorchAutoencoder, Autoencoder, (signal(3, 8, 3),)),
    "regression with RMSNorm": Network(TorchNormalized, Normalized, (signal(5, 3, 6),)),
    "cross-attention": Network(
        TorchCrossAttention, CrossAttention, (signal(2, 5, 3), signal(2, 4, 2))
    ),
    "subclasses, learned initial state": Network(
        TorchSubclassed, Subclassed, (signal(3, 6, 3),), ignore=("old_decoder.*",)
    ),
}
