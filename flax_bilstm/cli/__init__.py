"""`flax-bilstm`: the library from the shell. Exit codes: 0 good, 1 differs, 2 bad input."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from flax_bilstm import checkpoints
from flax_bilstm.checkpoints.replacing import replacing
from flax_bilstm.cli import convert as conversion
from flax_bilstm.cli import inspect as inspection
from flax_bilstm.cli.code import code_of
from flax_bilstm.cli.convert import Conversion, DifferenceError
from flax_bilstm.stablehlo import PLATFORMS, export, largest_difference, serialize

GOOD, DIFFERS, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
DTYPES = ("float16", "bfloat16", "float32", "float64")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; bad input is one message on stderr."""
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    try:
        code = command(**options)
    except DifferenceError as error:
        print(f"flax-bilstm: {error}", file=sys.stderr)
        return DIFFERS
    except (ValueError, OSError, ImportError) as error:
        print(f"flax-bilstm: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("flax-bilstm: interrupted.", file=sys.stderr)
        return INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flax-bilstm", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    endings = (
        "Formats by name: .pt .pth .ckpt .bin are PyTorch's, .safetensors; .orbax or no ending is "
        "an Orbax checkpoint directory."
    )

    convert = commands.add_parser(
        "convert",
        help="a checkpoint into another format, verified",
        description="Convert a checkpoint of an nn.LSTM or of the BiLSTM with attention. What was "
        f"written is read back and compared before it takes its name. {endings}",
    )
    convert.add_argument("source", metavar="SRC", type=Path, help="the checkpoint to read")
    convert.add_argument("target", metavar="DST", type=Path, help="the checkpoint to write")
    _reading(convert)
    convert.add_argument("--dtype", choices=DTYPES, help="cast the tensors (default: keep theirs)")
    convert.add_argument(
        "--no-optimizer",
        dest="optimizer",
        action="store_false",
        help="leave the optimizer's state out of an Orbax directory",
    )
    convert.add_argument("--dry-run", action="store_true", help="do all of it but keep nothing")
    _writing(convert)
    convert.set_defaults(command=_convert)

    inspect = commands.add_parser(
        "inspect",
        help="what a checkpoint holds, and what would not load",
        description="Show the layers and tensors of any checkpoint. Exit code 1: it means to be an "
        f"nn.LSTM or the BiLSTM with attention, and would not load. {endings}",
    )
    inspect.add_argument("path", metavar="FILE", type=Path, help="the checkpoint")
    _reading(inspect)
    form = inspect.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs")
    form.add_argument(
        "--code",
        action="store_true",
        help="print a Flax module of the same names and sizes, whose forward pass is to be written",
    )
    inspect.set_defaults(command=_inspect)

    export = commands.add_parser(
        "export",
        help="a checkpoint as one file that JAX alone runs",
        description="Export the model with jax.export, for any batch size and length, for "
        f"{', '.join(PLATFORMS)}, with the weights inside and products in full precision.",
    )
    export.add_argument("source", metavar="CHECKPOINT", type=Path, help="the checkpoint to read")
    export.add_argument("target", metavar="DST", type=Path, help="the file to write")
    _reading(export)
    _writing(export)
    export.set_defaults(command=_export)
    return parser


def _reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prefix", help="take only the names with this prefix, a submodule's")


def _writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace DST if it exists")


def _convert(**options: Any) -> int:
    print(conversion.convert(Conversion(**options), _say))
    return GOOD


def _inspect(path: Path, prefix: str | None, json: bool, code: bool) -> int:
    if code:
        print(code_of(checkpoints.read(path, prefix).tensors), end="")
        return GOOD
    found = inspection.inspect(path, prefix)
    print(inspection.to_json(found) if json else inspection.render(found))
    return DIFFERS if found["problems"] else GOOD


def _export(source: Path, target: Path, prefix: str | None, overwrite: bool) -> int:
    conversion.check_target(source, target, overwrite)
    precise = jax.default_matmul_precision("highest")
    with replacing(target) as temporary, jax.enable_x64(True), precise:
        _say(f"Reading {source}")
        model = checkpoints.load(source, prefix=prefix)
        _say("Exporting")
        exported = export(model)
        temporary.write_bytes(serialize(exported))
        _say("Comparing it with the model")
        artifact = temporary.read_bytes()
        difference = largest_difference(model, artifact)
        dtype = exported.in_avals[0].dtype
        tolerance = 16 * float(jnp.finfo(dtype).eps)
        if not difference <= tolerance:
            raise DifferenceError(
                f"the artifact differs from the model by {difference}, expected at most "
                f"{tolerance}, so it was not kept."
            )
    print(f"x: {exported.in_avals[0].str_short()}  platforms: {', '.join(exported.platforms)}")
    print(f"largest difference, DST against the model: {difference:.3g}  ({dtype})")
    print(f"{target}: written, {len(artifact):,} bytes")
    return GOOD


def _say(progress: str) -> None:
    """Tell people what is going on; programs that read stderr get errors only."""
    if sys.stderr.isatty():
        print(f"{progress} ...", file=sys.stderr, flush=True)
