"""A random LSTM, and a random call of it, for PyTorch and for this library."""

from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from hypothesis import strategies as st

import flax_bilstm as fb
from flax_bilstm.recurrence import IMPLEMENTATIONS


class Configuration(NamedTuple):
    """The options of an LSTM, the shape of its input, and the seed of all numbers.

    `lengths` and `state` say whether the call has them. `scale` multiplies the input.
    """

    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    bidirectional: bool
    projected: bool
    implementation: str
    batch: int
    time: int
    lengths: bool
    state: bool
    scale: float
    seed: int

    def with_other_numbers(self) -> list["Configuration"]:
        """Eight configurations of the same shapes and options, this one first."""
        scales = [self.scale, 1e-8, 1e-3, 0.1, 1.0, 3.0, 10.0, 30.0]
        return [self._replace(seed=self.seed + 2**16 * i, scale=s) for i, s in enumerate(scales)]

    @property
    def proj_size(self) -> int:
        """Half of the hidden size where the output is projected, else 0."""
        return self.hidden_size // 2 if self.projected and self.hidden_size > 1 else 0

    @property
    def directions(self) -> int:
        """2 where bidirectional, else 1."""
        return 1 + self.bidirectional

    def options(self) -> dict[str, Any]:
        """What both `torch.nn.LSTM` and `fb.LSTM` are made with."""
        return {
            "num_layers": self.num_layers,
            "bias": self.bias,
            "bidirectional": self.bidirectional,
            "proj_size": self.proj_size,
        }

    def model(self, implementation: str | None = None) -> fb.LSTM:
        """The LSTM in float64, its parameters drawn from `seed`."""
        lstm = fb.LSTM(
            self.input_size,
            self.hidden_size,
            **self.options(),
            implementation=implementation or self.implementation,
            param_dtype=np.float64,
            rngs=nnx.Rngs(0),
        )
        self.draw_parameters(lstm)
        return lstm

    def draw_parameters(self, lstm: fb.LSTM) -> None:
        """Replace all of the LSTM's parameters by numbers that depend on `seed` alone."""
        rng = np.random.default_rng(self.seed)
        fb.load_state_dict(
            lstm, {n: 0.7 * rng.normal(size=a.shape) for n, a in fb.state_dict(lstm).items()}
        )

    def call(self) -> dict[str, Any]:
        """x (batch, time, input_size), and initial_state and lengths, each None where absent."""
        rng = np.random.default_rng(self.seed + 1)
        x = self.scale * rng.normal(size=(self.batch, self.time, self.input_size))
        cells = self.num_layers * self.directions
        sizes = (self.proj_size or self.hidden_size, self.hidden_size)
        state = tuple(rng.normal(size=(cells, self.batch, size)) for size in sizes)
        lengths = rng.integers(1, self.time + 1, self.batch)
        return {
            "x": x,
            "initial_state": state if self.state else None,
            "lengths": lengths if self.lengths else None,
        }


# Sizes come from short lists, so that many of the cases share a compiled program.
CONFIGURATIONS = st.builds(
    Configuration,
    input_size=st.sampled_from([1, 3]),
    hidden_size=st.sampled_from([1, 2, 5, 17]),
    num_layers=st.sampled_from([1, 2]),
    bias=st.booleans(),
    bidirectional=st.booleans(),
    projected=st.booleans(),
    implementation=st.sampled_from(sorted(IMPLEMENTATIONS)),
    batch=st.sampled_from([1, 2, 7]),
    time=st.sampled_from([1, 2, 9]),
    lengths=st.booleans(),
    state=st.booleans(),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    seed=st.integers(0, 2**16),
)
