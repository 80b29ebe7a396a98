"""Writes Orbax checkpoint directories."""

import errno
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from flax_bilstm.checkpoints.orbax_threads import one_report
from flax_bilstm.checkpoints.system_errors import not_written
from flax_bilstm.conversion.rows import variables

BESIDE_ARRAYS = 2**18  # bytes
"""Room for what Orbax writes beside the arrays, which it compresses."""


def write(module: nnx.Module, path: Path, optimizer: Mapping[str, Any] | None = None) -> None:
    """Write a module's variables, and the optimizer's, if there is one.

    `optimizer` is `nnx.state(optimizer)`.
    """
    import orbax.checkpoint as ocp

    model: dict[str, Any] = {}
    for keys, variable in variables(module).items():
        leaf = model
        for key in keys:
            leaf = leaf.setdefault(str(key), {})
        leaf["value"] = np.asarray(variable.get_value())
    tree = {"model": model}
    if optimizer is not None:
        tree["optimizer"] = jax.tree.map(np.asarray, optimizer)
    _check_room(tree, path)
    try:
        with one_report(), ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path.absolute(), tree)
    except Exception as error:  # a full disk raises one of several
        raise not_written(path, error) from error


def _check_room(tree: Any, path: Path) -> None:
    """Refuse to begin without room: Orbax's threads would print errors after the first one."""
    needed = sum(array.nbytes for array in jax.tree.leaves(tree)) + BESIDE_ARRAYS
    rooms = {errno.ENOSPC: shutil.disk_usage(path.parent).free, errno.EFBIG: _largest_file()}
    for number, room in rooms.items():
        if room < needed:
            words = f"{needed:,} bytes are needed, and there is room for {room:,}"
            raise OSError(number, f"{os.strerror(number)}, {words}", str(path))


def _largest_file() -> int:
    """The largest size that the system lets this process give a file."""
    try:
        import resource
    except ImportError:  # Windows
        return sys.maxsize
    most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return sys.maxsize if most == resource.RLIM_INFINITY else most
