"""Right ports, written by hand, of the networks of `reordering`: none may raise an alarm.

Three ports of one network: a module with `nnx.RNN`, a function with `jax.lax.scan` and `jax.vmap`,
and a module with `fb.LSTM`. Each is compiled once for each of a few sizes.

    parity selftest --false-alarms 3000
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx
from jaxtyping import Array

import flax_bilstm as fb
from parity.render import text
from parity.report import Report
from parity.selftest import reordering
from parity.selftest.networks.by_hand import recurrent
from parity.selftest.networks.decoders import Recurrent, TorchRecurrent
from parity.selftest.reordering import cases, compared, kind, weights
from parity.sides import pair

SIZES = ((4, 4, 3, 2, 5), (1, 8, 1, 4, 12), (8, 3, 4, 1, 9), (5, 12, 2, 3, 1))
"""Features, hidden units, outputs, batch and steps."""


class OfLSTM(nnx.Module):
    """The network by `fb.LSTM`."""

    def __init__(self, rngs: nnx.Rngs, inputs: int, hidden: int, outputs: int) -> None:
        self.rnn = fb.LSTM(inputs, hidden, bidirectional=True, rngs=rngs)
        self.head = nnx.Linear(2 * hidden, outputs, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """(batch, time, features) → (batch, outputs)."""
        return self.head(self.rnn(x)[0][:, -1])


PORTS: dict[str, Callable[..., Any]] = {
    "nnx.RNN": lambda *sizes: Recurrent(nnx.Rngs(0), *sizes),
    "lax.scan and vmap": lambda *sizes: recurrent,
    "fb.LSTM": lambda *sizes: OfLSTM(nnx.Rngs(0), *sizes),
}


@cache
def _sides(port: str, sizes: tuple[int, ...]) -> tuple[torch.nn.Module, pair.ModulePair]:
    *features, batch, time = sizes
    network = TorchRecurrent(*features)
    candidate = PORTS[port](*features)
    x = np.zeros((batch, time, features[0]), np.float32)
    return network, pair.of_modules(network, candidate, {"x": x})


def check(seed: int) -> tuple[str, Report]:
    """The port of a case, and the report on it; the sizes are from `SIZES`."""
    port = list(PORTS)[seed % len(PORTS)]
    sizes = SIZES[seed // len(PORTS) % len(SIZES)]
    network, sides = _sides(port, sizes)
    inputs, hidden, outputs, batch, time = sizes
    case = replace(
        next(cases(range(seed, seed + 1))),
        input_dim=inputs, hidden_dim=hidden, output_dim=outputs, batch=batch, time=time,
    )  # fmt: skip
    rng = np.random.default_rng([seed, 1])
    held = weights(network, case, rng)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return port, compared(sides.holding(held, held), case, rng)


def outcome(seed: int) -> tuple[str, str]:
    """The outcome of a case, one of OUTCOMES, and the report's verdict in words."""
    torch.set_num_threads(1)
    port, report = check(seed)
    return kind(report), f"{port}, seed {seed}: {text.verdict(report)}"


POPULATIONS = {
    "PyTorch against its own reordering": reordering.outcome,
    "right ports by hand beside PyTorch": outcome,
}
"""The populations of `parity selftest --false-alarms`: words → function from seed to outcome."""
