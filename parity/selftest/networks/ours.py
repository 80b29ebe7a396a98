"""The network of this package, with three kinds of inputs."""

import numpy as np
import torch
from flax import nnx

import torch_ref
from flax_bilstm import BiLSTMWithAttention
from parity.selftest.networks.network import Batch, Network, normal
from parity.sides.side import TARGET

# Two sizes are equal, so that a transposed matrix raises no error.
INPUT_DIM, HIDDEN_DIM, OUTPUT_DIM = 4, 4, 8
BATCH, TIME = 3, 20


def _torch() -> torch.nn.Module:
    """The network as initialised, but with the LSTM's weights doubled."""
    model = torch_ref.BiLSTMWithAttention(INPUT_DIM, HIDDEN_DIM, OUTPUT_DIM)
    with torch.no_grad():
        for parameter in model.lstm.parameters():
            parameter.mul_(2)
    return model


def _flax(rngs: nnx.Rngs) -> BiLSTMWithAttention:
    return BiLSTMWithAttention(INPUT_DIM, HIDDEN_DIM, OUTPUT_DIM, rngs=rngs)


def _plain(rng: np.random.Generator) -> Batch:
    return {"x": normal(rng, BATCH, TIME, INPUT_DIM), TARGET: normal(rng, BATCH, OUTPUT_DIM)}


def _padded(rng: np.random.Generator) -> Batch:
    """Sequences of several lengths, with garbage in the padding."""
    batch, lengths = _plain(rng), np.array([TIME, 7, 13])
    batch["x"][np.arange(TIME)[None] >= lengths[:, None]] = 30
    return {**batch, "lengths": lengths}


def _large(rng: np.random.Generator) -> Batch:
    """Inputs that saturate every gate."""
    batch = _plain(rng)
    return {**batch, "x": batch["x"] * 1000}


OURS = {
    name: Network(_torch, _flax, draw)
    for name, draw in (("plain", _plain), ("padded", _padded), ("large", _large))
}
