"""An Orbax directory with the optimizer's state beside the module, written and read back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flax_bilstm.checkpoints import orbax_folder, orbax_writing
from flax_bilstm.checkpoints.unwrap import Checkpoint
from flax_bilstm.cli.job import Conversion
from flax_bilstm.cli.named import Rate, rate_of
from flax_bilstm.cli.verify import DifferenceError, differing
from flax_bilstm.conversion.optimizer import describe, optimizer_from_torch
from flax_bilstm.conversion.order import in_the_models_names, parameter_order, with_names
from flax_bilstm.conversion.tensors import overflows


def write(job: Conversion, read: Checkpoint, module: nnx.Module, temporary: Path) -> list[str]:
    """Write the module, and the optimizer's state beside it if it is to be converted."""
    if read.optimizer is None or not job.optimizer:
        orbax_writing.write(module, temporary)
        return [] if read.optimizer is None else ["  left out: the optimizer's state"]
    rate = None if job.learning_rate is None else rate_of(job.learning_rate)
    state = _cast(converted(job, module, read, rate), job.dtype)
    orbax_writing.write(module, temporary, state)
    _check_optimizer(state, temporary)
    return [f"  optimizer: {describe(read.optimizer, rate)}"]


def converted(
    job: Conversion, module: nnx.Module, read: Checkpoint, rate: Rate | None = None
) -> Any:
    """The state of the optax optimizer made from the checkpoint's optimizer."""
    options: dict[str, Any] = {"names": job.names, "ignore": job.ignore}
    value = None if rate is None else rate.value
    try:
        state = read.optimizer or {}
        if job.parameters is not None:
            state = with_names(state, job.parameters.read_text().split())
        state = in_the_models_names(state, read.renamed)
        order = parameter_order(module, state, read.renamed, **options)
        optimizer = optimizer_from_torch(module, state, order, learning_rate=value, **options)
    except ValueError as error:
        raise ValueError(f"{error}\n  Or leave it out: --no-optimizer.") from error
    return nnx.state(optimizer)


def _cast(optimizer: Any, dtype: str | None) -> Any:
    """The optimizer's state with its moments cast to `dtype`.

    Raises:
        ValueError: a finite value overflows.
    """
    if dtype is None:
        return optimizer

    def cast(array: jax.Array) -> jax.Array:
        if not jnp.issubdtype(array.dtype, jnp.floating):
            return array
        if overflows(np.asarray(array), np.asarray(after := array.astype(dtype))):
            raise ValueError(
                f"--dtype: the optimizer's moments have values that overflow in {dtype}. Leave "
                "them out: --no-optimizer."
            )
        return after

    return jax.tree.map(cast, optimizer)


def _check_optimizer(state: Any, written: Path) -> None:
    back = orbax_folder.read(written).tree["optimizer"]
    # In one group's moments the other groups' parameters have no leaf, which Orbax reads as None.
    flat = orbax_folder.flatten(state)
    expected = {".".join(path): np.asarray(a) for path, a in flat if jax.tree.leaves(a)}
    flat = orbax_folder.flatten(back)
    got: Mapping[str, Any] = {".".join(path): a for path, a in flat if a is not None}
    if changed := differing(expected, got):
        raise DifferenceError(f"the optimizer's state changed on its way: {', '.join(changed)}.")
