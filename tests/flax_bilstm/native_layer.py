"""Weights and inputs of a layer, and ways to run it: for the tests of the C++ one."""

import tempfile
import textwrap
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from flax_bilstm import recurrence
from flax_bilstm.recurrence import directions
from flax_bilstm.recurrence.equations import State, Weights, validity

from .. import processes


def case(shape, dtype):
    """Weights of each direction, x, initial states and valid; lengths from 0 to time."""
    time, batch, inputs, hidden = shape
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape) / 2, dtype)

    def one():
        bias = normal(4 * hidden), normal(4 * hidden)
        return Weights(normal(inputs, 4 * hidden), normal(hidden, 4 * hidden), *bias, None)

    weights = tuple(one() for _ in range(2))
    states = State(normal(2, batch, hidden), normal(2, batch, hidden))
    lengths = jnp.asarray(rng.integers(0, time + 1, batch)).at[0].set(time)
    valid = validity(lengths, time)
    return weights, normal(time, batch, inputs) * valid.astype(dtype), states, valid


def run_directions(implementation, weights, x, states, valid, batch_major=False):
    """A layer as an LSTM runs it."""
    run = recurrence.resolve(implementation)
    return directions.run_layer(run, weights, x, states, valid, batch_major)


def run_python(script, **environment):
    with tempfile.TemporaryDirectory() as folder:
        return processes.run(textwrap.dedent(script), Path(folder), environment)
