"""Data parallelism: the batch is split over a mesh of devices, each with a copy of the parameters.

For the cores of a CPU, for GPUs, TPUs and several hosts. Place the model and the batch with these
functions, then call or differentiate under `jax.jit` as on one device; XLA splits the work and sums
the gradients.

    jax.config.update("jax_num_cpu_devices", 2)  # on CPU, before anything else uses JAX
    mesh = sharding.make_mesh()
    model = sharding.replicate(model, mesh)
    x, target = sharding.shard_batch((x, target), mesh)

On CPU, implementations other than "native" use only one core per device: XLA runs a loop over time
on one core. A mesh over several CPU devices uses more cores.

If a batch is too small to split, the two directions of each layer can be split, instead or as well:

    mesh = sharding.make_mesh(directions=2)
    with jax.set_mesh(mesh):  # the layers look for the axis `direction` in this mesh
        y = model(x)

See https://docs.jax.dev/en/latest/notebooks/Distributed_arrays_and_automatic_parallelization.html
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flax_bilstm import arguments
from flax_bilstm.recurrence import directions as layer_directions

AXIS = "batch"
DIRECTION = layer_directions.AXIS
Tree = TypeVar("Tree")


def make_mesh(
    devices: Sequence[jax.Device] | None = None,
    axis_type: AxisType = AxisType.Auto,
    directions: int = 1,
) -> Mesh:
    """A mesh with the axis `batch` and, if directions is 2, the axis `direction`.

    Args:
        devices: None takes all devices of all processes.
        axis_type: the type of the axis `batch`; `direction` is always Auto.
        directions: 2 gives each direction of a bidirectional layer half of the devices, inside
            `jax.set_mesh(mesh)`; 1 uses all of them for the batch.

    Raises:
        ValueError: directions is neither 1 nor 2, or 2 with an odd number of devices.
    """
    if devices is not None:
        arguments.of_kind("devices", devices, (list, tuple, np.ndarray), "a list of jax.Device")
    listed = jax.devices() if devices is None else list(devices)
    chosen = np.empty(len(listed), object)
    chosen[:] = listed
    for device in chosen:
        arguments.of_kind("devices", device, jax.Device, "a list of jax.Device")
    arguments.of_kind("axis_type", axis_type, AxisType, "a jax.sharding.AxisType")
    arguments.positive("directions", directions)
    if directions not in (1, 2) or not chosen.size or chosen.size % directions:
        raise ValueError(
            f"directions: expected 1, or 2 with an even number of devices, got {directions} with "
            f"{chosen.size}."
        )
    if directions == 1:
        return Mesh(chosen, (AXIS,), axis_types=(axis_type,))
    return Mesh(chosen.reshape(-1, 2), (AXIS, DIRECTION), axis_types=(axis_type, AxisType.Auto))


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """A copy of a module, or of any tree of arrays, on every device of the mesh.

    With several processes, each must pass the same numbers; JAX raises an error if they differ.
    """
    _check_mesh(mesh)
    arguments.leaves("tree", tree)
    sharding = NamedSharding(mesh, PartitionSpec())

    def put(leaf: Any) -> jax.Array:
        if not jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
            return jax.device_put(leaf, sharding)
        # device_put cannot send PRNG keys (dropout's) to devices of other processes.
        data = jax.device_put(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))

    return jax.tree.map(put, tree)


def shard_batch(tree: Tree, mesh: Mesh) -> Tree:
    """A tree of arrays, each (batch, ...), split along its first axis over the mesh.

    With several processes, each passes its part of the batch; all parts must have the same size.

    Raises:
        ValueError: a batch cannot be divided evenly; see `pad_batch`.
    """
    _check_mesh(mesh)
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    local = mesh.local_mesh.shape[AXIS]
    for leaf in arguments.leaves("tree", tree):
        shape = np.shape(leaf)
        if not shape or shape[0] % local:
            raise ValueError(
                f"tree: expected arrays whose first axis, the batch, is a multiple of {local}, the "
                f"parts that the mesh makes of this process's batch, got shape {shape}; pad "
                "it with pad_batch."
            )
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), tree)


def pad_batch(tree: Tree, multiple: int) -> tuple[Tree, np.ndarray]:
    """Fill the batch up to a multiple with copies of its first example.

    Returns:
        The tree, every array (padded, ...), and a mask (padded,) float32: 1.0 for the original
        examples, 0.0 for the copies. Weight the losses of the examples with the mask,
        `(losses * mask).sum() / mask.sum()`, and drop the predictions for the copies.

    Raises:
        ValueError: multiple is not from 1 to 2²⁰, or the arrays have different batch sizes.
    """
    arguments.positive("multiple", multiple, arguments.MOST_PARTS)
    sizes = {np.shape(leaf)[:1] for leaf in arguments.leaves("tree", tree)}
    if len(sizes) != 1 or sizes == {()}:
        got = sorted(size for (size,) in filter(None, sizes)) or "numbers"
        raise ValueError(f"tree: expected arrays of one batch size, got {got}.")
    ((size,),) = sizes
    padded = -(-size // multiple) * multiple
    rows = np.arange(padded) * (np.arange(padded) < size)  # 0, 1, ..., size - 1, 0, 0, ...
    mask = (np.arange(padded) < size).astype(np.float32)
    return jax.tree.map(lambda leaf: leaf[rows], tree), mask


def _check_mesh(mesh: Any) -> None:
    arguments.of_kind("mesh", mesh, Mesh, "a mesh made by make_mesh")
    if AXIS not in mesh.shape:
        raise ValueError(f"mesh: expected one with the axis {AXIS}, got {tuple(mesh.shape)}.")
