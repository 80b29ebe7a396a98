"""`flax-bilstm`: the library from the shell. Exit codes: 0 good, 1 differs, 2 bad input."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from flax_bilstm import checkpoints, verification
from flax_bilstm.checkpoints.replacing import replacing
from flax_bilstm.state_dict import from_state_dict, state_dict

GOOD, DIFFERS, BAD_INPUT = 0, 1, 2


class DifferenceError(Exception):
    """What was written does not give what was read."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; bad input is one message on stderr."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except DifferenceError as error:
        print(f"flax-bilstm: {error}", file=sys.stderr)
        return DIFFERS
    except (ValueError, OSError, ImportError) as error:
        print(f"flax-bilstm: {error}", file=sys.stderr)
        return BAD_INPUT
    return GOOD


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flax-bilstm", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    convert = commands.add_parser(
        "convert",
        help="a checkpoint into another format, verified",
        description="Convert a checkpoint of an nn.LSTM or of the BiLSTM with attention. What was "
        "written is read back and compared before it takes its name.",
    )
    endings = ", ".join(checkpoints.FORMATS)
    convert.add_argument("source", metavar="SRC", type=Path, help=f"what to read ({endings})")
    convert.add_argument("target", metavar="DST", type=Path, help=f"what to write ({endings})")
    convert.add_argument("--overwrite", action="store_true", help="replace DST if it exists")
    convert.set_defaults(command=_convert)
    return parser


def _convert(options: argparse.Namespace) -> None:
    source, target = options.source, options.target
    writer = checkpoints.format_of(target).write
    _check_target(source, target, options.overwrite)
    with replacing(target) as temporary:
        _say(f"Reading {source}")
        arrays = checkpoints.read(source)
        with jax.enable_x64(True):  # float64 tensors stay float64
            written = state_dict(from_state_dict(arrays))
        _say(f"Writing {target}")
        writer(written, temporary)
        _say("Reading it back and comparing")
        found = verification.verify(arrays, written, checkpoints.read(temporary))
        _report(found)
    print(f"{target}: written")


def _check_target(source: Path, target: Path, overwrite: bool) -> None:
    """Refuse a target that would cost the user a file."""
    if target.exists() and source.exists() and os.path.samefile(source, target):
        raise ValueError(f"DST: expected another file than SRC, got {target} for both.")
    if target.exists() and not overwrite:
        raise ValueError(f"DST: {target} is there already; pass --overwrite to replace it.")


def _report(found: verification.Verification) -> None:
    """Print the comparison; DifferenceError if it failed."""
    print(f"largest forward difference, DST against SRC:     {found.from_source:.3g}  (float64)")
    if found.from_torch is None:
        print("largest forward difference, DST against PyTorch: PyTorch is not installed")
    else:
        print(f"largest forward difference, DST against PyTorch: {found.from_torch:.3g}  (float64)")
    if not found.passed:
        differing = ", ".join(found.differing) or "none"
        raise DifferenceError(
            "what was written differs from what was read, so it was not kept. Tensors that "
            f"changed: {differing}. Largest difference from PyTorch: {found.from_torch}, expected "
            f"at most {verification.TOLERANCE}."
        )


def _say(progress: str) -> None:
    """Tell people what is going on; programs that read stderr get errors only."""
    if sys.stderr.isatty():
        print(f"{progress} ...", file=sys.stderr, flush=True)
