"""The programs to compile: inference and a whole training step of the reference network."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import flax_bilstm as fb
from flax_bilstm.sharding import AXIS

INPUT_DIM, HIDDEN_DIM, OUTPUT_DIM = 128, 64, 1
BATCH, TIME = 128, 128


class Program(NamedTuple):
    """A function and the shapes of its arguments, each with its sharding on the mesh."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def _placed(tree: Any, mesh: Mesh, *axes: str) -> Any:
    """The tree's shapes, replicated over the mesh or split along `axes`."""
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)


def programs(implementation: str, dtype: Any, mesh: Mesh) -> dict[str, Program]:
    """Both programs, computing in `dtype` with float32 parameters, the batch split over `mesh`."""

    def build() -> fb.BiLSTMWithAttention:
        return fb.BiLSTMWithAttention(
            INPUT_DIM,
            HIDDEN_DIM,
            OUTPUT_DIM,
            implementation=implementation,
            dtype=dtype,
            rngs=nnx.Rngs(0),
        )

    graph, parameters, *rest = nnx.split(nnx.eval_shape(build), nnx.Param, ...)
    optimizer = optax.adam(1e-3)
    moments = jax.eval_shape(optimizer.init, parameters)

    def predict(parameters: Any, rest: Any, x: Any) -> Any:
        return nnx.merge(graph, parameters, *rest)(x)

    def step(parameters: Any, moments: Any, rest: Any, x: Any, target: Any) -> Any:
        def loss(parameters: Any) -> Any:
            return ((predict(parameters, rest, x).astype(jnp.float32) - target) ** 2).mean()

        value, gradients = jax.value_and_grad(loss)(parameters)
        updates, moments = optimizer.update(gradients, moments)
        return optax.apply_updates(parameters, updates), moments, value

    parameters, moments, rest = _placed((parameters, moments, rest), mesh)
    shape = jax.ShapeDtypeStruct
    x = _placed(shape((BATCH, TIME, INPUT_DIM), dtype), mesh, AXIS)
    target = _placed(shape((BATCH, OUTPUT_DIM), jnp.float32), mesh, AXIS)
    return {
        "inference": Program(predict, (parameters, rest, x)),
        "training": Program(step, (parameters, moments, rest, x, target)),
    }
