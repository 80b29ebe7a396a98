"""For sequences whose saved activations exceed the memory: `fused` in segments, each run twice.

Only the state between two segments is kept; the backward pass runs each segment's forward pass
again (Chen et al. 2016, "Training deep nets with sublinear memory cost"). The memory for inputs and
outputs still grows with time, that for gates and cells does not. `jax.checkpoint` over a caller's
chunks cannot do this for a bidirectional layer, whose two directions enter a chunk at opposite
ends.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from flax_bilstm.recurrence import fused
from flax_bilstm.recurrence.equations import State, Weights

LONGEST_SEGMENT = 256
"""Most steps whose gates and cells are in memory at the same time."""


def run_direction(
    weights: Weights,
    x: Float[Array, "time batch in"],
    state: State,
    valid: Bool[Array, "time batch 1"] | None,
    reverse: bool,
) -> tuple[Float[Array, "time batch out"], State]:
    """One direction over time; see `recurrence.Implementation`. Time is not symbolic."""
    time = x.shape[0]
    count = -(-time // LONGEST_SEGMENT)
    length = -(-time // count)
    missing = count * length - time  # fewer than count; padded with steps that are not valid
    if missing:
        valid = jnp.ones_like(x[..., :1], dtype=bool) if valid is None else valid
        x, valid = (jnp.pad(a, ((0, missing), (0, 0), (0, 0))) for a in (x, valid))

    def run(state: State, segment: tuple[Array, Array | None]) -> tuple[State, Array]:
        outputs, state = fused.run_direction(weights, segment[0], state, segment[1], reverse)
        return state, outputs

    segments = jax.tree.map(lambda a: a.reshape(count, length, *a.shape[1:]), (x, valid))
    run = jax.checkpoint(run, prevent_cse=False)  # not needed inside a scan
    state, outputs = jax.lax.scan(run, state, segments, reverse=reverse)
    return outputs.reshape(count * length, *outputs.shape[2:])[:time], state
