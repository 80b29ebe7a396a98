"""`flax-bilstm convert`: read, write, read back, compare; the new checkpoint stays if all agree."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flax_bilstm import checkpoints
from flax_bilstm.checkpoints import orbax_folder
from flax_bilstm.checkpoints.replacing import replacing
from flax_bilstm.checkpoints.unwrap import Checkpoint
from flax_bilstm.cli import verify as verification
from flax_bilstm.conversion import optimizer as optimizer_state
from flax_bilstm.conversion.optimizer import optimizer_from_torch
from flax_bilstm.conversion.reading import Module, read_sizes
from flax_bilstm.conversion.weights import from_state_dict, state_dict


class DifferenceError(Exception):
    """What was written does not give what was read."""


class Conversion(NamedTuple):
    """What to convert, and how. `dtype` None keeps that of the tensors."""

    source: Path
    target: Path
    prefix: str | None = None
    dtype: str | None = None
    dry_run: bool = False
    overwrite: bool = False
    optimizer: bool = True


def convert(job: Conversion, say: Callable[[str], None]) -> str:
    """Do `job` and return the report; `say` is told what is going on meanwhile.

    Raises:
        DifferenceError: what was read back, or what PyTorch computes from it, differs. Nothing was
            kept.
        ValueError, OSError, ImportError: bad input. Nothing was written.
    """
    target_format = checkpoints.format_of(job.target)
    check_target(job.source, job.target, job.overwrite)
    with replacing(job.target, keep=not job.dry_run) as temporary, jax.enable_x64(True):
        say(f"Reading {job.source}")
        read = checkpoints.read(job.source, job.prefix)
        with checkpoints.naming(job.source), np.errstate(over="ignore"):
            source = from_state_dict(read.tensors)  # float64 stays float64: x64 is on
            converted = source
            if job.dtype is not None:  # a value that overflows is not finite, and refused
                converted = from_state_dict(read.tensors, param_dtype=job.dtype)
            written = state_dict(converted)
        lines = [f"{job.source}: {describe(read)}", *(f"  {note}" for note in read.notes)]

        say(f"Writing {job.target}")
        if read.optimizer is not None and job.optimizer and target_format is checkpoints.ORBAX:
            state = _cast(_optimizer(source, read), job.dtype)
            lines.append(f"  optimizer: {optimizer_state.describe(read.optimizer)}")
            orbax_folder.write(converted, temporary, state)
            _check_optimizer(state, temporary)
        else:
            if read.optimizer is not None:
                lines.append("  left out: the optimizer's state; an Orbax directory can carry it")
            if target_format.write is None:
                orbax_folder.write(converted, temporary)
            else:
                target_format.write(written, temporary)

        say("Reading it back and comparing")
        found = verification.verify(read.tensors, written, checkpoints.read(temporary).tensors)
        lines += _report(found)
    done = "would be written (dry run)" if job.dry_run else "written"
    return "\n".join([*lines, f"{job.target}: {done}, {target_format.title}"])


def check_target(source: Path, target: Path, overwrite: bool) -> None:
    """Refuse a target that would cost the user a file.

    Raises:
        ValueError: it is the source, holds the source, or is there already and not to be
            overwritten.
    """
    if target.exists() and source.exists() and os.path.samefile(source, target):
        raise ValueError(f"DST: expected another name than SRC, got {target} for both.")
    if target.resolve() in source.resolve().parents:
        raise ValueError(f"DST: expected a place outside of SRC's own folder, got {target}.")
    if target.exists() and not overwrite:
        raise ValueError(f"DST: {target} is there already; pass --overwrite to replace it.")


def describe(read: Checkpoint) -> str:
    """The model in a checkpoint, in one line."""
    kind, sizes = read_sizes(read.tensors)
    arguments = ", ".join(f"{name}={size}" for name, size in sizes.items())
    dtypes = ", ".join(sorted({tensor.dtype.name for tensor in read.tensors.values()}))
    return f"{kind.__name__}({arguments}), {len(read.tensors)} tensors, {dtypes}"


def _optimizer(model: Module, read: Checkpoint) -> Any:
    """The state of the optimizer that the checkpoint's is turned into."""
    try:
        optimizer = optimizer_from_torch(model, read.optimizer or {}, read.parameters)
    except ValueError as error:
        raise ValueError(f"{error}\n  Or leave it out: --no-optimizer.") from error
    return nnx.state(optimizer)


def _cast(optimizer: Any, dtype: str | None) -> Any:
    """The optimizer's state with its moments in `dtype`."""
    if dtype is None:
        return optimizer
    return jax.tree.map(
        lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, optimizer
    )


def _check_optimizer(state: Any, written: Path) -> None:
    back = orbax_folder.read(written)["optimizer"]
    expected = {".".join(path): np.asarray(a) for path, a in orbax_folder.flatten(state)}
    got: Mapping[str, Any] = {".".join(path): a for path, a in orbax_folder.flatten(back)}
    if differing := verification.differing(expected, got):
        raise DifferenceError(f"the optimizer's state changed on its way: {', '.join(differing)}.")


def _report(found: verification.Verification) -> list[str]:
    """The comparison in words; DifferenceError if it failed."""
    if not found.passed:
        raise DifferenceError(
            "what was written differs from what was read, so it was not kept. Tensors that "
            f"changed: {', '.join(found.differing) or 'none'}. Largest difference from PyTorch: "
            f"{found.from_torch}, expected at most {found.tolerance:.3g}."
        )
    from_torch = "PyTorch is not installed"
    if found.from_torch is not None:
        from_torch = f"{found.from_torch:.3g}  (float64)"
    return [
        f"largest forward difference, DST against SRC:     {found.from_source:.3g}  (float64)",
        f"largest forward difference, DST against PyTorch: {from_torch}",
    ]
