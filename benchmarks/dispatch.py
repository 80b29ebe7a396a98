"""The overhead of a jitted call of the layer, beyond its computation.

The layer runs on one sequence of 32 steps; the empty call takes the same arguments, including the
module's state, and returns results of the same shapes. At hidden size 8 there is hardly anything to
compute, so that the difference of the two is the overhead; at 64 it is the overhead and the work.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import flax_bilstm as fb
from benchmarks.timed import timed

STEPS = 32
CALLS = 2000


def seconds() -> dict[str, float]:
    """Medians of warm calls, each waited for."""
    found = {}
    for hidden_dim in (8, 64):
        lstm = fb.LSTM(hidden_dim, hidden_dim, bidirectional=True, rngs=nnx.Rngs(0))
        graph, state = nnx.split(lstm)
        x = jnp.ones((1, STEPS, hidden_dim))

        def layer(state: Any, x: Any, graph: Any = graph) -> Any:
            return nnx.merge(graph, state, copy=True)(x)

        shapes = jax.eval_shape(layer, state, x)

        def empty(state: Any, x: Any, shapes: Any = shapes) -> Any:
            return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        for name, function in {"layer": jax.jit(layer), "empty": jax.jit(empty)}.items():

            def call(function: Any = function, state: Any = state, x: Any = x) -> Any:
                return jax.block_until_ready(function(state, x))

            timed(call, 100)
            found[f"{name}, hidden {hidden_dim}"] = float(np.median(timed(call, CALLS)))
    return found
