"""This library: its default, or one implementation, on one device or over several."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flax_bilstm as fb
from benchmarks.cells import Cell
from benchmarks.contestants import Prepared, jitted
from benchmarks.workload import inputs, weights
from flax_bilstm import sharding


def set_up(
    implementation: str | None = None, devices: int = 1, directions: int = 1
) -> dict[str, Any]:
    """The devices, before anything runs."""
    return {**jitted.set_up(devices), "implementation": implementation}


def build(
    cell: Cell, implementation: str | None = None, devices: int = 1, directions: int = 1
) -> Prepared:
    """The layer, or the network, with the cell's weights and inputs."""
    jax.clear_caches()  # those of the previous cell
    model: Any = fb.from_state_dict(weights(cell), implementation=implementation)
    made = inputs(cell)
    x = jnp.asarray(made.x)
    extra = _extra(cell, made)
    if devices == 1:
        return jitted.prepare(model, cell, _forward, _named, x, extra)
    mesh = sharding.make_mesh(directions=directions)
    x, extra = sharding.shard_batch((x, extra), mesh)
    with jax.set_mesh(mesh):
        model = sharding.replicate(model, mesh)
        run, arrays, kernel = jitted.prepare(model, cell, _forward, _named, x, extra)

    def run_in_mesh() -> Any:
        with jax.set_mesh(mesh):
            return run()

    def kernel_in_mesh() -> str:
        with jax.set_mesh(mesh):
            return kernel()

    return Prepared(run_in_mesh, arrays, kernel_in_mesh)


def _extra(cell: Cell, made: Any) -> dict[str, jax.Array]:
    """What the cell needs besides x."""
    wanted = {
        "lengths": made.lengths if cell.ragged else None,
        "outputs_gradient": made.outputs_gradient if cell.mode == "gradients" else None,
        "target": made.target if cell.mode == "training" else None,
    }
    return {name: jnp.asarray(array) for name, array in wanted.items() if array is not None}


def _forward(model: Any, x: Any, lengths: Any) -> Any:
    return model(x, lengths=lengths)


def _named(model: Any) -> dict[str, np.ndarray]:
    return dict(fb.state_dict(model))
