"""`flax-bilstm convert`: read, write, read back, compare; the new checkpoint stays if all agree."""

import gc
import importlib
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
from flax_bilstm.checkpoints.mapped import forget
from flax_bilstm.checkpoints.replacing import replacing
from flax_bilstm.checkpoints.unwrap import Checkpoint
from flax_bilstm.cli import verify as verification
from flax_bilstm.conversion import optimizer as optimizer_state
from flax_bilstm.conversion.optimizer import optimizer_from_torch
from flax_bilstm.conversion.order import in_the_models_names, parameter_order, with_names
from flax_bilstm.conversion.reading import is_ours, read_sizes
from flax_bilstm.conversion.rows import Names
from flax_bilstm.conversion.weights import (
    check_state_dict,
    from_state_dict,
    load_state_dict,
    state_dict,
)

NOT_COMPARED = "no forward pass was compared: a checkpoint does not contain this network's"


class DifferenceError(Exception):
    """The written checkpoint does not give what was read."""


class Conversion(NamedTuple):
    """The arguments of a conversion.

    Attributes:
        source, target: the checkpoints; the target's name determines its format.
        prefix: use only the names that begin with it.
        dtype: what floating tensors are cast to; None keeps their dtypes.
        score: the forward pass of the reference network's attention; the names do not determine it.
        into: "package.module:function" that makes the module to load into, for another network.
        names, ignore: for `into`, as for `load_state_dict`.
        parameters: a text file with the optimizer's parameters, one torch name per line.
        learning_rate: a number, or "package.module:schedule", in place of the optimizer's.
        dry_run, overwrite, optimizer: whether to keep nothing, to replace an existing file, and to
            convert the optimizer's state.
    """

    source: Path
    target: Path
    prefix: str | None = None
    key: str | None = None
    dtype: str | None = None
    score: str = "dot"
    into: str | None = None
    names: Names | None = None
    ignore: tuple[str, ...] = ()
    parameters: Path | None = None
    learning_rate: str | None = None
    dry_run: bool = False
    overwrite: bool = False
    optimizer: bool = True


class _Converted(NamedTuple):
    """The module, None if there is none, and what is written: torch name → array."""

    module: nnx.Module | None
    tensors: dict[str, np.ndarray]
    words: str
    skipped: tuple[str, ...] = ()


def convert(job: Conversion, say: Callable[[str], None]) -> str:
    """Do `job` and return the report; `say` is called with progress messages.

    Raises:
        DifferenceError: what was read back, or what PyTorch computes from it, differs. Nothing
            was kept.
        ValueError, OSError, ImportError: bad input. Nothing was written.
    """
    target_format = checkpoints.format_of(job.target)
    check_target(job.source, job.target, job.overwrite)
    whole = replacing(job.target, keep=not job.dry_run, overwrite=job.overwrite)
    with whole as temporary:
        say(f"Reading {job.source}")
        read = checkpoints.read(job.source, job.prefix, job.key)
        with jax.enable_x64(job.into is None or _is_wide(job, read)):
            lines = _written(job, read, target_format, temporary, say)
    done = "would be written (dry run)" if job.dry_run else "written"
    return "\n".join([*lines, f"{job.target}: {done}, {target_format.title}"])


def _is_wide(job: Conversion, read: Checkpoint) -> bool:
    """Whether there are floating tensors of 64 bits.

    If not, the user's module is made with JAX's defaults: variables without an explicit dtype,
    such as `nnx.Param(jnp.zeros(3))`, then have 32 bits.
    """
    return "float64" in (
        [job.dtype] if job.dtype else {t.dtype.name for t in read.tensors.values()}
    )


def _written(
    job: Conversion,
    read: Checkpoint,
    target_format: checkpoints.Format,
    temporary: Path,
    say: Callable[[str], None],
) -> list[str]:
    """Convert, write, read back and compare; returns the report's lines."""
    with checkpoints.naming(job.source), np.errstate(over="ignore"):
        module = None if job.into is None else _built(job.into)
        if module is not None:
            read = checkpoints.fitting(read, module, job.names, job.ignore)
        converted = _converted(job, read, module)
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
        lines += _write_orbax(job, read, converted.module, temporary)

    if job.into is None:
        converted = converted._replace(module=None)  # its memory is needed for the comparison
        gc.collect()  # modules refer to each other
    forget(read.tensors)
    say("Reading it back and comparing")
    return [*lines, *_compared(job, read, converted, temporary)]


def _converted(job: Conversion, read: Checkpoint, module: nnx.Module | None) -> _Converted:
    """The user's module, or the one that the tensors describe, if any, and its tensors."""
    dtypes = ", ".join(sorted({tensor.dtype.name for tensor in read.tensors.values()}))
    size = f"{len(read.tensors)} tensors, {dtypes}"
    tensors = _cast_tensors(read.tensors, job.dtype)
    if module is not None:
        skipped = load_state_dict(module, tensors, names=job.names, ignore=job.ignore)
        written = state_dict(module, names=job.names, ignore=job.ignore)
        left = (*skipped.tensors, *skipped.variables)
        return _Converted(module, written, f"{type(module).__name__}, {size}", left)
    if not is_ours(read.tensors):
        return _Converted(None, tensors, size)
    kind, sizes = read_sizes(read.tensors)
    options: dict[str, Any] = {} if "input_size" in sizes else {"score": job.score}
    arguments = ", ".join(f"{name}={value}" for name, value in (sizes | options).items())
    ordered = {name: tensors[name] for name in check_state_dict(read.tensors, job.dtype)}
    model = None
    if checkpoints.format_of(job.target) is checkpoints.ORBAX:
        model = from_state_dict(ordered, **options)
    return _Converted(model, ordered, f"{kind.__name__}({arguments}), {size}")


def _built(spec: str) -> nnx.Module:
    """The module that a function makes, specified as package.module:function."""
    try:
        made = _named(spec)()
    except Exception as error:  # the user's code can raise anything
        raise ValueError(
            f"--into: {spec} expected a function without arguments that makes an nnx.Module; it "
            f"raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, nnx.Module):
        raise ValueError(
            f"--into: expected {spec} to make an nnx.Module, got {type(made).__name__}"
        )
    return made


def _named(spec: str) -> Any:
    """The object specified as package.module:name."""
    module_name, _, name = spec.partition(":")
    return getattr(importlib.import_module(module_name), name)


class _Rate(NamedTuple):
    """A learning rate, and how it was written on the command line."""

    value: Any
    text: str

    def __repr__(self) -> str:
        return self.text


def _rate(text: str) -> _Rate:
    """A number, or a schedule specified as package.module:schedule."""
    try:
        return _Rate(_named(text) if ":" in text else float(text), text)
    except Exception as error:  # the user's code can raise anything
        raise ValueError(
            f"--learning-rate: expected a number or package.module:schedule, got {text}, which "
            f"raised {type(error).__name__}: {error}"
        ) from error


def _cast_tensors(tensors: Mapping[str, np.ndarray], dtype: str | None) -> dict[str, np.ndarray]:
    """The floating tensors cast to another dtype.

    Raises:
        ValueError: a finite value overflows.
    """
    if dtype is None:
        return dict(tensors)
    cast = {
        name: array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array
        for name, array in tensors.items()
    }
    for name, array in cast.items():
        floating = jnp.issubdtype(array.dtype, jnp.floating)
        if floating and (np.isfinite(tensors[name]) & ~np.isfinite(array)).any():
            raise ValueError(f"--dtype: {name} has values that overflow in {dtype}.")
    return cast


def _write_orbax(
    job: Conversion, read: Checkpoint, module: nnx.Module, temporary: Path
) -> list[str]:
    """Write the module, and the optimizer's state beside it if it is to be converted."""
    if read.optimizer is None or not job.optimizer:
        orbax_folder.write(module, temporary)
        return [] if read.optimizer is None else ["  left out: the optimizer's state"]
    state = _cast(_optimizer(job, module, read), job.dtype)
    orbax_folder.write(module, temporary, state)
    _check_optimizer(state, temporary)
    rate = job.learning_rate and _rate(job.learning_rate)
    return [f"  optimizer: {optimizer_state.describe(read.optimizer, rate or None)}"]


def _compared(
    job: Conversion, read: Checkpoint, converted: _Converted, temporary: Path
) -> list[str]:
    """Compare what was written with what was read; DifferenceError if they differ."""
    if converted.module is not None and checkpoints.format_of(temporary) is checkpoints.ORBAX:
        again = nnx.clone(converted.module)
        checkpoints.load(temporary, into=again)
        back = state_dict(again, names=job.names, ignore=job.ignore)
    else:
        back = checkpoints.read(temporary).tensors
    if is_ours(read.tensors) and job.into is None:
        return _report(verification.verify(read.tensors, converted.tensors, back, job.score))
    if changed := verification.differing(converted.tensors, back):
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


def _optimizer(job: Conversion, module: nnx.Module, read: Checkpoint) -> Any:
    """The state of the optax optimizer made from the checkpoint's optimizer."""
    options: dict[str, Any] = {"names": job.names, "ignore": job.ignore}
    rate = _rate(job.learning_rate).value if job.learning_rate else None
    try:
        state = read.optimizer or {}
        if job.parameters is not None:
            state = with_names(state, job.parameters.read_text().split())
        state = in_the_models_names(state, read.renamed)
        order = parameter_order(module, state, read.renamed, **options)
        optimizer = optimizer_from_torch(module, state, order, learning_rate=rate, **options)
    except ValueError as error:
        raise ValueError(f"{error}\n  Or leave it out: --no-optimizer.") from error
    return nnx.state(optimizer)


def _cast(optimizer: Any, dtype: str | None) -> Any:
    """The optimizer's state with its moments cast to `dtype`."""
    if dtype is None:
        return optimizer
    return jax.tree.map(
        lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, optimizer
    )


def _check_optimizer(state: Any, written: Path) -> None:
    back = orbax_folder.read(written).tree["optimizer"]
    # In one group's moments the other groups' parameters have no leaf, which Orbax reads as None.
    flat = orbax_folder.flatten(state)
    expected = {".".join(path): np.asarray(a) for path, a in flat if jax.tree.leaves(a)}
    flat = orbax_folder.flatten(back)
    got: Mapping[str, Any] = {".".join(path): a for path, a in flat if a is not None}
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
    if found.overflows:
        from_torch = "not compared, sums of these weights overflow"
    elif found.from_torch is not None:
        from_torch = f"{found.from_torch:.3g}  (float64)"
    return [
        f"forward pass that ran on both sides: {found.forward_pass}",
        f"largest forward difference, DST against SRC:     {found.from_source:.3g}  (float64)",
        f"largest forward difference, DST against PyTorch: {from_torch}",
    ]
