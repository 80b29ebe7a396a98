"""The plain implementation: `jax.lax.scan` over the cell. It supports all JAX transformations."""

from contextlib import AbstractContextManager, nullcontext

import jax
from jax.sharding import AxisType
from jaxtyping import Array, Bool, Float

from flax_bilstm.recurrence.equations import State, Weights, cell_step, where_valid


def run_direction(
    weights: Weights,
    x: Float[Array, "time batch in"],
    state: State,
    valid: Bool[Array, "time batch 1"] | None,
    reverse: bool,
) -> tuple[Float[Array, "time batch out"], State]:
    """One direction over time; see `recurrence.Implementation`."""

    def step(state: State, inputs: tuple[Array, Array | None]) -> tuple[State, Array]:
        x_t, valid_t = inputs
        new = cell_step(weights, state, x_t, valid_t)
        carried = State(
            where_valid(valid_t, new.hidden, state.hidden),
            where_valid(valid_t, new.cell, state.cell),
        )
        return carried, where_valid(valid_t, new.hidden, None)

    with _mesh_of(x):
        final, outputs = jax.lax.scan(step, state, (x, valid), reverse=reverse)
    return outputs, final


def _mesh_of(x: Array) -> AbstractContextManager[object]:
    """If no mesh is current, make the mesh of explicit axes that x refers to the current one.

    The gradient of `jax.lax.scan` starts from zeros, which JAX lays out only on the current mesh.
    """
    mesh = jax.typeof(x).sharding.mesh
    if AxisType.Explicit in mesh.axis_types and jax.sharding.get_abstract_mesh().empty:
        return jax.sharding.use_abstract_mesh(mesh)
    return nullcontext()
