"""The directions of one layer: in sequence, in one call, or each on separate devices.

Nothing passes between the two directions until both are done, so a mesh with an axis `direction`
of size 2 runs them at the same time. This speeds up even a batch of one, which cannot be split.
Only the outputs are exchanged, at the end of the layer.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from flax_bilstm.recurrence import IMPLEMENTATIONS, Implementation
from flax_bilstm.recurrence.equations import State, Weights
from flax_bilstm.recurrence.native import layer as native

AXIS = "direction"

# An implementation → its function that runs both directions of a layer in one, faster call.
_WHOLE_LAYERS = {
    IMPLEMENTATIONS["native"]: jax.jit(native.run_layer, static_argnames="batch_major")
}


def run_layer(
    run: Implementation,
    weights: Sequence[Weights],
    x: Float[Array, "time batch in"],
    states: State,
    valid: Bool[Array, "time batch 1"] | None,
    batch_major: bool = False,
) -> tuple[Float[Array, "time batch out"], State]:
    """One layer: forward and, if there are two weights, reverse.

    `states` and the final states are (directions, batch, ·); the outputs are concatenated, forward
    first. `batch_major` changes no number: set it where x is the transpose of an array (batch,
    time, in) and the outputs will be transposed, so that the C++ layer saves both copies.
    """
    weights, x, states, valid = _varying_alike((tuple(weights), x, states, valid))
    if len(weights) == 2 and jax.sharding.get_abstract_mesh().shape.get(AXIS) == 2:
        split = jax.shard_map(
            partial(_run_own, run),
            in_specs=PartitionSpec(),
            out_specs=(PartitionSpec(None, None, AXIS), PartitionSpec(AXIS)),
            axis_names={AXIS},
        )
        return split(weights, states, x, valid)
    whole = _WHOLE_LAYERS.get(run)
    if whole is not None and native.is_supported(weights[0], x):
        return whole(weights, x, states, valid, batch_major=batch_major)
    results = [
        run(each, x, State(states.hidden[k], states.cell[k]), valid, k == 1)
        for k, each in enumerate(weights)
    ]
    outputs, finals = zip(*results, strict=True)
    return jnp.concatenate(outputs, axis=-1), jax.tree.map(lambda *each: jnp.stack(each), *finals)


def _varying_alike(arrays: Any) -> Any:
    """Inside `jax.shard_map`, make each array vary over the devices that any of them varies over.

    So if a weight is the same on all devices, JAX sums its gradients over them.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return arrays
    axes = frozenset().union(*map(_varying, jax.tree.leaves(arrays)))

    def vary(array: Array) -> Array:
        missing = axes - _varying(array)
        return jax.lax.pcast(array, tuple(missing), to="varying") if missing else array

    return jax.tree.map(vary, arrays)


def _run_own(run: Implementation, *inputs: Any) -> tuple[Array, State]:
    """What each device runs: its direction, forward in time; the reverse one gets time flipped."""
    weights, states, x, valid = jax.lax.pcast(inputs, AXIS, to="varying")
    reverse = jax.lax.axis_index(AXIS) == 1
    own = jax.tree.map(partial(jnp.where, ~reverse), *weights)
    state = State(*(jnp.where(reverse, array[1], array[0]) for array in states))
    x, valid = _flip_if(reverse, (x, valid))
    outputs, final = run(own, x, state, valid, False)
    return _flip_if(reverse, outputs), jax.tree.map(lambda array: array[None], final)


def _flip_if(condition: Array, tree: Any) -> Any:
    """The arrays of the tree, reversed in time where the condition holds."""
    return jax.tree.map(lambda array: jnp.where(condition, jnp.flip(array, 0), array), tree)


def _varying(array: Array) -> frozenset[Any]:
    """The axes of a `shard_map` over which an array varies; JAX 0.8 has them under another name."""
    aval: Any = jax.typeof(array)
    return aval.manual_axis_type.varying if hasattr(aval, "manual_axis_type") else aval.vma
