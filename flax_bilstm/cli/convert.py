"""`flax-bilstm convert`: read, write, read back, compare; the new checkpoint stays if all agree."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from flax_bilstm import checkpoints
from flax_bilstm.checkpoints.mapped import forget
from flax_bilstm.checkpoints.replacing import replacing
from flax_bilstm.checkpoints.unwrap import Checkpoint
from flax_bilstm.cli import optimizer
from flax_bilstm.cli import verify as verification
from flax_bilstm.cli.job import Conversion
from flax_bilstm.cli.memory import give_back
from flax_bilstm.cli.named import module_of
from flax_bilstm.cli.verify import DifferenceError
from flax_bilstm.conversion.reading import is_ours, read_sizes
from flax_bilstm.conversion.tensors import Cast, overflows
from flax_bilstm.conversion.weights import (
    check_state_dict,
    from_state_dict,
    load_state_dict,
    state_dict,
)
from flax_bilstm.showing import counted

NOT_COMPARED = "no forward pass was compared: a checkpoint does not contain this network's"


class _Converted(NamedTuple):
    """The module, None if there is none, and what is written: torch name → array."""

    module: nnx.Module | None
    tensors: dict[str, np.ndarray]
    words: str
    skipped: tuple[str, ...] = ()


def convert(job: Conversion, say: Callable[[str], None]) -> str:
    """Do `job` and return the report; `say` is called with progress messages.

    Arrays are read anew where they would otherwise take memory that something else needs.

    Raises:
        DifferenceError: what was read back, or what PyTorch computes from it, differs. Nothing
            was kept.
        ValueError, OSError, ImportError: bad input. Nothing was written.
    """
    target_format = checkpoints.format_of(job.target)
    check_target(job.source, job.target, job.overwrite)
    whole = replacing(job.target, keep=not job.dry_run, overwrite=job.overwrite)
    with whole as temporary:
        converted, lines = _written(job, target_format, temporary, say)
        size = sum(file.stat().st_size for file in (temporary, *temporary.rglob("*")))
        give_back(size)
        say("Reading it back and comparing")
        with jax.enable_x64(True):
            ours, changed = _changed(job, converted, temporary)
            del converted
            give_back(size)
            lines += _compared(job, ours, changed, temporary)
    done = "would be written (dry run)" if job.dry_run else "written"
    return "\n".join([*lines, f"{job.target}: {done}, {target_format.title}"])


def _read(job: Conversion) -> Checkpoint:
    return checkpoints.read(job.source, job.prefix, job.key)


def _written(
    job: Conversion, target_format: checkpoints.Format, temporary: Path, say: Callable[[str], None]
) -> tuple[_Converted, list[str]]:
    """Read, convert and write; also returns report lines."""
    say(f"Reading {job.source}")
    read = _read(job)
    with jax.enable_x64(job.into is None or _is_wide(job, read)):
        with checkpoints.naming(job.source), np.errstate(over="ignore"):
            module = None if job.into is None else module_of(job.into)
            if module is not None:
                read = checkpoints.fitting(read, module, job.names, job.ignore)
            converted = _converted(job, read, module)
        forget(read.tensors)
        lines = [f"{job.source}: {converted.words}", *(f"  {note}" for note in read.notes)]
        lines += [f"  left out: {name}" for name in converted.skipped]

        say(f"Writing {job.target}")
        if target_format.write is not None:
            if read.optimizer is not None:
                lines.append("  left out: the optimizer's state; an Orbax directory can carry it")
            target_format.write(converted.tensors, temporary)
        elif converted.module is None:
            raise ValueError(
                "DST: an Orbax directory has the variables of a Flax module, and this is another "
                "network than flax_bilstm's own; pass --into package.module:function, which makes "
                "your module, or choose a .safetensors or PyTorch file."
            )
        else:
            # Orbax copies the module and needs the memory; the tensors can be read again.
            written, read = converted.module, read._replace(tensors={})
            converted = converted._replace(module=module, tensors={})
            lines += optimizer.write(job, read, written, temporary)
    forget(converted.tensors)
    return converted, lines


def _is_wide(job: Conversion, read: Checkpoint) -> bool:
    """Whether there are floating tensors of 64 bits.

    If not, the user's module is made with JAX's defaults: variables without an explicit dtype,
    such as `nnx.Param(jnp.zeros(3))`, then have 32 bits.
    """
    return "float64" in (
        [job.dtype] if job.dtype else {t.dtype.name for t in read.tensors.values()}
    )


def _converted(job: Conversion, read: Checkpoint, module: nnx.Module | None) -> _Converted:
    """The user's module, or the one that the tensors describe, if any, and its tensors."""
    dtypes = ", ".join(sorted({tensor.dtype.name for tensor in read.tensors.values()}))
    size = f"{counted(len(read.tensors), 'tensor')}, {dtypes}"
    tensors = _cast_tensors(read.tensors, job.dtype)
    if module is not None:
        skipped = load_state_dict(module, tensors, names=job.names, ignore=job.ignore)
        written = state_dict(module, names=job.names, ignore=job.ignore)
        left = (*skipped.tensors, *skipped.variables)
        return _Converted(module, written, f"{type(module).__name__}, {size}", left)
    if not is_ours(read.tensors):
        return _Converted(None, tensors, size)
    kind, sizes = read_sizes(read.tensors)
    options = verification.score_option(read.tensors, job.score)
    arguments = ", ".join(f"{name}={value}" for name, value in (sizes | options).items())
    ordered = {name: tensors[name] for name in check_state_dict(read.tensors, job.dtype)}
    model = None
    if checkpoints.format_of(job.target) is checkpoints.ORBAX:
        model = from_state_dict(ordered, **options)
    return _Converted(model, ordered, f"{kind.__name__}({arguments}), {size}")


def _cast_tensors(tensors: Mapping[str, np.ndarray], dtype: str | None) -> dict[str, np.ndarray]:
    """The floating tensors cast to another dtype.

    Raises:
        ValueError: a finite value overflows.
    """
    if dtype is None:
        return dict(tensors)
    cast = dict(Cast(tensors, dtype))
    for name, array in cast.items():
        if overflows(tensors[name], array):
            raise ValueError(f"--dtype: {name} has values that overflow in {dtype}.")
    return cast


def _changed(
    job: Conversion, converted: _Converted, temporary: Path
) -> tuple[bool, tuple[str, ...]]:
    """Whether the tensors are of one of our modules, and the names of those that changed."""
    options: dict[str, Any] = {"names": job.names, "ignore": job.ignore}
    if converted.module is not None and checkpoints.format_of(job.target) is checkpoints.ORBAX:
        again = nnx.clone(converted.module)
        checkpoints.load(temporary, into=again)
        expected, back = (state_dict(each, **options) for each in (converted.module, again))
    else:
        expected = converted.tensors or _cast_tensors(_read(job).tensors, job.dtype)
        back = checkpoints.read(temporary).tensors
    ours = job.into is None and is_ours(expected)
    return ours, verification.differing(expected, back)


def _compared(job: Conversion, ours: bool, changed: tuple[str, ...], temporary: Path) -> list[str]:
    """The report of the comparison; DifferenceError if anything differs."""
    if ours:
        found = verification.verify(
            lambda: _read(job).tensors,
            lambda: checkpoints.read(temporary).tensors,
            changed,
            job.score,
        )
        if found.from_source and not changed and job.dtype is None:
            raise ValueError(
                f"SRC: {job.source} changed while it was converted, so nothing was kept. Convert "
                "it again."
            )
        return _report(found)
    if changed:
        raise DifferenceError(
            "what was written differs from what was read, so it was not kept. Tensors that "
            f"changed: {', '.join(changed)}."
        )
    return [f"every tensor was read back and is the same to the bit; {NOT_COMPARED}"]


def check_target(source: Path, target: Path, overwrite: bool) -> None:
    """Refuse a target that would destroy one of the user's files.

    Raises:
        ValueError: it is the source, contains the source, or exists and must not be
            overwritten.
    """
    if target.exists() and source.exists() and os.path.samefile(source, target):
        raise ValueError(f"DST: expected another name than SRC, got {target} for both.")
    if Path(os.path.realpath(target)) in Path(os.path.realpath(source)).parents:
        raise ValueError(f"DST: expected a place outside of SRC's own folder, got {target}.")
    if target.exists() and not overwrite:
        raise ValueError(f"DST: {target} exists already; pass --overwrite to replace it.")


def _report(found: verification.Verification) -> list[str]:
    """The comparison in words; DifferenceError if it failed."""
    if not found.passed:
        raise DifferenceError(
            "what was written differs from what was read, so it was not kept. Tensors that "
            f"changed: {', '.join(found.differing) or 'none'}. Largest difference from PyTorch: "
            f"{found.from_torch}, expected at most {found.tolerance:.3g}."
        )
    from_torch = "PyTorch is not installed"
    if found.overflows:
        from_torch = "not compared, sums of these weights overflow"
    elif found.from_torch is not None:
        from_torch = f"{found.from_torch:.3g}  (float64)"
    return [
        f"forward pass that ran on both sides: {found.forward_pass}",
        f"largest forward difference, DST against SRC:     {found.from_source:.3g}  (float64)",
        f"largest forward difference, DST against PyTorch: {from_torch}",
    ]
