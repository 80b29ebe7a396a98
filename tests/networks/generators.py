"""Encoders with decoders, and stacks: networks that step cells or repeat a block."""

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn

import flax_bilstm as fb

from .network import Network, signal, tokens


class TorchCellDecoder(nn.Module):
    """An LSTM encodes, an LSTMCell decodes, two heads in a ModuleDict."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.LSTM(4, 6, batch_first=True)
        self.cell = nn.LSTMCell(3, 6)
        self.heads = nn.ModuleDict({"mu": nn.Linear(6, 3), "sigma": nn.Linear(6, 3)})

    def forward(self, x):
        _, (h, c) = self.encoder(x)
        h, c = h[-1], c[-1]
        last, outputs = x[:, -1, :3], []
        for _ in range(3):
            h, c = self.cell(last, (h, c))
            last = self.heads["mu"](h)
            outputs.append(last + nn.functional.softplus(self.heads["sigma"](h)))
        return torch.stack(outputs, dim=1)


class CellDecoder(nnx.Module):
    def __init__(self, rngs):
        self.encoder = fb.LSTM(4, 6, rngs=rngs)
        self.cell = fb.LSTMCell(3, 6, rngs=rngs)
        self.heads = nnx.Dict(mu=nnx.Linear(6, 3, rngs=rngs), sigma=nnx.Linear(6, 3, rngs=rngs))

    def __call__(self, x):
        _, (h, c) = self.encoder(x)
        carry = (c[-1], h[-1])
        last, outputs = x[:, -1, :3], []
        for _ in range(3):
            carry, h = self.cell(carry, last)
            last = self.heads["mu"](h)
            outputs.append(last + jax.nn.softplus(self.heads["sigma"](h)))
        return jnp.stack(outputs, axis=1)


class TorchLuongTranslator(nn.Module):
    """Sequence to sequence with Luong's general attention."""

    def __init__(self):
        super().__init__()
        self.src_embed = nn.Embedding(20, 5)
        self.tgt_embed = nn.Embedding(25, 5)
        self.encoder = nn.LSTM(5, 4, batch_first=True, bidirectional=True)
        self.bridge_h, self.bridge_c = nn.Linear(8, 8), nn.Linear(8, 8)
        self.decoder = nn.LSTM(5, 8, batch_first=True)
        self.attn = nn.Linear(8, 8, bias=False)
        self.concat = nn.Linear(16, 8, bias=False)
        self.generator = nn.Linear(8, 25)

    def forward(self, source, target):
        memory, (h, c) = self.encoder(self.src_embed(source))
        h = torch.tanh(self.bridge_h(torch.cat([h[0], h[1]], -1)))[None]
        c = torch.tanh(self.bridge_c(torch.cat([c[0], c[1]], -1)))[None]
        y, _ = self.decoder(self.tgt_embed(target), (h, c))
        weights = torch.softmax(torch.bmm(self.attn(y), memory.transpose(1, 2)), dim=-1)
        context = torch.bmm(weights, memory)
        return self.generator(torch.tanh(self.concat(torch.cat([context, y], -1))))


class LuongTranslator(nnx.Module):
    def __init__(self, rngs):
        self.source = nnx.Embed(20, 5, rngs=rngs)
        self.target = nnx.Embed(25, 5, rngs=rngs)
        self.encoder = fb.LSTM(5, 4, bidirectional=True, rngs=rngs)
        self.bridge_h, self.bridge_c = (nnx.Linear(8, 8, rngs=rngs) for _ in range(2))
        self.decoder = fb.LSTM(5, 8, rngs=rngs)
        self.attn = nnx.Linear(8, 8, use_bias=False, rngs=rngs)
        self.concat = nnx.Linear(16, 8, use_bias=False, rngs=rngs)
        self.generator = nnx.Linear(8, 25, rngs=rngs)

    def __call__(self, source, target):
        memory, (h, c) = self.encoder(self.source(source))
        h = jnp.tanh(self.bridge_h(jnp.concatenate([h[0], h[1]], -1)))[None]
        c = jnp.tanh(self.bridge_c(jnp.concatenate([c[0], c[1]], -1)))[None]
        y, _ = self.decoder(self.target(target), (h, c))
        weights = jax.nn.softmax(jnp.einsum("bqf,bkf->bqk", self.attn(y), memory))
        context = jnp.einsum("bqk,bkf->bqf", weights, memory)
        return self.generator(jnp.tanh(self.concat(jnp.concatenate([context, y], -1))))


class TorchBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 3, batch_first=True, bidirectional=True)
        self.ln = nn.LayerNorm(6)
        self.act = nn.PReLU()

    def forward(self, x):
        return self.ln(x + self.act(self.lstm(x)[0]))


class TorchResidualStack(nn.Module):
    """Blocks in a ModuleList, a buffer, and parameters in a ParameterList."""

    def __init__(self):
        super().__init__()
        self.register_buffer("positions", torch.randn(7, 6))
        self.blocks = nn.ModuleList([TorchBlock() for _ in range(3)])
        self.scales = nn.ParameterList([nn.Parameter(torch.randn(6)) for _ in range(2)])

    def forward(self, x):
        x = x + self.positions
        for block in self.blocks:
            x = block(x)
        return x * self.scales[0] + self.scales[1]


class Block(nnx.Module):
    def __init__(self, rngs):
        self.lstm = fb.LSTM(6, 3, bidirectional=True, rngs=rngs)
        self.ln = nnx.LayerNorm(6, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.act = nnx.PReLU(0.25)

    def __call__(self, x):
        return self.ln(x + self.act(self.lstm(x)[0]))


class ResidualStack(nnx.Module):
    def __init__(self, rngs):
        self.positions = nnx.Variable(jnp.zeros((7, 6)))
        self.blocks = nnx.List([Block(rngs) for _ in range(3)])
        self.scales = nnx.List([nnx.Param(jnp.zeros(6)) for _ in range(2)])

    def __call__(self, x):
        x = x + self.positions[...]
        for block in self.blocks:
            x = block(x)
        return x * self.scales[0][...] + self.scales[1][...]


class ScannedStack(nnx.Module):
    """The same blocks, stacked by `nnx.vmap` and run by `nnx.scan`."""

    def __init__(self, rngs):
        self.positions = nnx.Variable(jnp.zeros((7, 6)))

        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stacked(rngs):
            return Block(rngs)

        self.blocks = stacked(rngs)
        self.scales = nnx.List([nnx.Param(jnp.zeros(6)) for _ in range(2)])

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x, block):
            return block(x)

        x = run(x + self.positions[...], self.blocks)
        return x * self.scales[0][...] + self.scales[1][...]


class TorchCopyDecoder(nn.Module):
    """A decoder with attention over keys and values of another width."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(20, 6)
        self.enc = nn.LSTM(6, 3, batch_first=True, bidirectional=True)
        self.dec = nn.LSTMCell(6, 8)
        self.query = nn.Linear(8, 6)
        self.gate = nn.Sequential(nn.Linear(14, 8), nn.Tanh(), nn.Linear(8, 1), nn.Sigmoid())

    def forward(self, source, target):
        memory, _ = self.enc(self.emb(source))
        h = memory.new_zeros(len(source), 8)
        c, gates = h, []
        for step in self.emb(target).unbind(1):
            h, c = self.dec(step, (h, c))
            scores = torch.einsum("bf,btf->bt", self.query(h), memory)
            context = torch.einsum("bt,btf->bf", scores.softmax(-1), memory)
            gates.append(self.gate(torch.cat([h, context], -1)))
        return torch.cat(gates, -1)


class CopyDecoder(nnx.Module):
    def __init__(self, rngs):
        self.emb = nnx.Embed(20, 6, rngs=rngs)
        self.enc = fb.LSTM(6, 3, bidirectional=True, rngs=rngs)
        self.dec = fb.LSTMCell(6, 8, rngs=rngs)
        self.query = nnx.Linear(8, 6, rngs=rngs)
        self.gate = nnx.Sequential(
            nnx.Linear(14, 8, rngs=rngs), jnp.tanh, nnx.Linear(8, 1, rngs=rngs), nnx.sigmoid
        )

    def __call__(self, source, target):
        memory, _ = self.enc(self.emb(source))
        carry, gates = (jnp.zeros((len(source), 8), memory.dtype),) * 2, []
        for step in jnp.unstack(self.emb(target), axis=1):
            carry, h = self.dec(carry, step)
            scores = jnp.einsum("bf,btf->bt", self.query(h), memory)
            context = jnp.einsum("bt,btf->bf", jax.nn.softmax(scores), memory)
            gates.append(self.gate(jnp.concatenate([h, context], -1)))
        return jnp.concatenate(gates, -1)


NETWORKS = {
    "encoder and LSTMCell decoder": Network(TorchCellDecoder, CellDecoder, (signal(3, 6, 4),)),
    "translator with Luong attention": Network(
        TorchLuongTranslator,
        LuongTranslator,
        (tokens(20, 3, 5), tokens(25, 3, 4)),
        {"source": "src_embed", "target": "tgt_embed"},
    ),
    "residual stack in a ModuleList": Network(
        TorchResidualStack, ResidualStack, (signal(2, 7, 6),)
    ),
    "residual stack, scanned": Network(TorchResidualStack, ScannedStack, (signal(2, 7, 6),)),
    "decoder with a copy gate": Network(
        TorchCopyDecoder, CopyDecoder, (tokens(20, 3, 5), tokens(20, 3, 4))
    ),
}
