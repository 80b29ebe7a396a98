"""`flax-bilstm export`: read, export, compare; the artifact stays if it computes the same."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from flax_bilstm import checkpoints, stablehlo
from flax_bilstm.checkpoints.mapped import forget
from flax_bilstm.checkpoints.replacing import replacing
from flax_bilstm.cli import artifact
from flax_bilstm.cli.artifact import Program
from flax_bilstm.cli.convert import check_target
from flax_bilstm.cli.examples import examples, largest_difference
from flax_bilstm.cli.memory import give_back
from flax_bilstm.cli.verify import DifferenceError, forward_pass, score_option
from flax_bilstm.conversion.weights import from_state_dict


def export(
    source: Path,
    target: Path,
    prefix: str | None,
    key: str | None,
    dtype: str | None,
    score: str,
    lengths: bool,
    mask: bool,
    overwrite: bool,
    say: Callable[[str], None],
) -> str:
    """Export the model and return the report; `say` is called with progress messages.

    Raises:
        DifferenceError: the artifact computes something else than the model. It was not kept.
        ValueError, OSError, ImportError: bad input. Nothing was written.
    """
    check_target(source, target, overwrite)
    precise = jax.default_matmul_precision("highest")
    whole = replacing(target, overwrite=overwrite)
    with whole as temporary, jax.enable_x64(True), precise:
        say(f"Reading {source}")
        read = checkpoints.read(source, prefix, key)
        with checkpoints.naming(source):
            options = score_option(read.tensors, score)
            model = from_state_dict(read.tensors, param_dtype=dtype, **options)
        freed = sum(tensor.nbytes for tensor in read.tensors.values())
        forget(read.tensors)
        padded = "lengths" if lengths else "mask" if mask else None
        expected = examples(model, padded)
        say("Exporting")
        program = Program(*stablehlo.with_weights_outside(model, lengths, mask))
        x, platforms = program.function.in_avals[0], program.function.platforms
        del model  # its weights are in the program
        give_back(freed)
        artifact.write(program, temporary)
        say("Comparing it with the model")
        difference = largest_difference(artifact.read(temporary), expected)
        computed, size = x.dtype, temporary.stat().st_size
        tolerance = 16 * float(jnp.finfo(computed).eps)
        if not difference <= tolerance:
            raise DifferenceError(
                f"the artifact differs from the model by {difference}, expected at most "
                f"{tolerance}, so it was not kept."
            )
    report = [
        f"forward pass: {forward_pass(read.tensors, score)}",
        f"x: {x.str_short()}  platforms: {', '.join(platforms)}",
        f"largest difference, DST against the model: {difference:.3g}  ({computed})",
        f"{target}: written, {size:,} bytes",
    ]
    return "\n".join(report)
