"""`flax-bilstm`: the library from the shell. Exit codes: 0 good, 1 differs, 2 bad input."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flax_bilstm import arguments, checkpoints
from flax_bilstm.cli import convert as conversion
from flax_bilstm.cli import export as exporting
from flax_bilstm.cli import inspect as inspection
from flax_bilstm.cli import printing
from flax_bilstm.cli.code import code_of
from flax_bilstm.cli.job import Conversion
from flax_bilstm.cli.verify import DifferenceError
from flax_bilstm.conversion.flax_cells import SummedBiases
from flax_bilstm.network import SCORES
from flax_bilstm.stablehlo import PLATFORMS

GOOD, DIFFERS, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
DTYPES = ("float16", "bfloat16", "float32", "float64")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; bad input gives one message on stderr."""
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    try:
        code = command(**options)
    except DifferenceError as error:
        return _complain(str(error), DIFFERS)
    except (ValueError, OSError, ImportError) as error:
        return _complain(str(error), BAD_INPUT)
    except MemoryError:
        return _complain("there is not enough memory for this.", BAD_INPUT)
    except KeyboardInterrupt:
        return _complain("interrupted.", INTERRUPTED)
    except Exception as error:  # an error in this library; users need no traceback
        said = (str(error).splitlines() or [""])[0]
        return _complain(f"unexpected {type(error).__name__}: {said}", BAD_INPUT)
    return code


def _complain(message: str, code: int) -> int:
    printing.write(f"flax-bilstm: {message}", sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flax-bilstm", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    endings = (
        "SRC is read by its content, whatever its name. The name of DST gives its format: .pt .pth "
        ".ckpt .bin .tar .pkl PyTorch, .safetensors, .orbax or no ending an Orbax directory."
    )

    convert = commands.add_parser(
        "convert",
        help="convert a checkpoint to another format, and verify it",
        description="Convert a checkpoint of any network. What was written is read back and "
        "compared before it takes its name. Of an nn.LSTM and of the BiLSTM with attention the "
        f"forward pass is compared too. {endings}",
    )
    convert.add_argument("source", metavar="SRC", type=_path, help="the checkpoint to read")
    convert.add_argument("target", metavar="DST", type=_path, help="the checkpoint to write")
    _reading(convert)
    _model(convert)
    convert.add_argument(
        "--into",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="the function that makes your NNX module; an Orbax directory of another network "
        "than flax_bilstm's needs it",
    )
    convert.add_argument(
        "--names",
        metavar="FLAX=TORCH",
        action="append",
        default=[],
        help="for --into: names that differ in PyTorch; may be repeated, for tied weights too",
    )
    convert.add_argument(
        "--summed-biases",
        metavar="FLAX=TORCH:SUFFIX",
        action="append",
        default=[],
        help="for --into: a cell of Flax's own, whose one bias is the sum of torch's two, such as "
        "rnn.cell=lstm:_l0 (an LSTMCell has no :SUFFIX); may be repeated",
    )
    convert.add_argument(
        "--ignore",
        metavar="PATTERN",
        action="append",
        default=[],
        help="for --into: names without a counterpart; may be repeated",
    )
    convert.add_argument(
        "--no-optimizer",
        dest="optimizer",
        action="store_false",
        help="leave the optimizer's state out of an Orbax directory",
    )
    convert.add_argument(
        "--parameters",
        metavar="FILE",
        type=_path,
        help="the torch names of the optimizer's parameters in its order, one per line; needed "
        "if its state has no names and several groups, or the model has buffers",
    )
    convert.add_argument(
        "--learning-rate",
        metavar="RATE",
        help="the optimizer's learning rate, if a scheduler has set it: a number or "
        "package.module:schedule",
    )
    convert.add_argument(
        "--dry-run", action="store_true", help="convert and compare, then discard the result"
    )
    _writing(convert)
    convert.set_defaults(command=_convert)

    inspect = commands.add_parser(
        "inspect",
        help="show what a checkpoint holds, and what would not load",
        description="Show the layers and tensors of any checkpoint. Exit code 1: it has the "
        "names of an nn.LSTM or of the BiLSTM with attention, but would not load. "
        f"{endings}",
    )
    inspect.add_argument("path", metavar="FILE", type=_path, help="the checkpoint")
    _reading(inspect)
    form = inspect.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON, for programs")
    form.add_argument(
        "--code",
        action="store_true",
        help="print a Flax module of the same names and sizes, whose forward pass is to be written",
    )
    inspect.set_defaults(command=_inspect)

    export = commands.add_parser(
        "export",
        help="export a checkpoint as one file that runs with JAX alone",
        description="Export the model with jax.export, for any batch size and length, for "
        f"{', '.join(PLATFORMS)}, with the weights inside and products in full precision.",
    )
    export.add_argument("source", metavar="CHECKPOINT", type=_path, help="the checkpoint to read")
    export.add_argument("target", metavar="DST", type=_path, help="the file to write")
    _reading(export)
    _model(export)
    padded = export.add_mutually_exclusive_group()
    padded.add_argument("--lengths", action="store_true", help="take lengths beside x")
    padded.add_argument("--mask", action="store_true", help="take a mask beside x")
    _writing(export)
    export.set_defaults(command=_export)
    return parser


def _path(written: str) -> Path:
    try:
        return Path(arguments.path("path", written))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("path: ")) from error


def _reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prefix", help="take only the names with this prefix, a submodule's")
    parser.add_argument("--key", help="the key of the state dict, in a file that has several")


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", choices=DTYPES, help="cast the tensors (default: keep theirs)")
    parser.add_argument(
        "--score",
        choices=SCORES,
        default="dot",
        help="the attention's score, which a checkpoint does not store (default: dot)",
    )


def _writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace DST if it exists")


def _convert(names: list[str], summed_biases: list[str], ignore: list[str], **options: Any) -> int:
    tied: dict[str, tuple[str, ...]] = {}
    for flax, torch in _pairs("--names", "FLAX=TORCH", names):
        tied[flax] = (*tied.get(flax, ()), torch)
    cells = {
        flax: SummedBiases(*torch.split(":", 1))
        for flax, torch in _pairs("--summed-biases", "FLAX=TORCH:SUFFIX", summed_biases)
    }
    job = Conversion(**options, names={**tied, **cells}, ignore=tuple(ignore))
    report = conversion.convert(job, _say)
    printing.write(report)  # DST is written even if printing fails
    return GOOD


def _pairs(option: str, expected: str, written: list[str]) -> list[tuple[str, str]]:
    pairs = [pair.partition("=") for pair in written]
    for whole, (flax, _, torch) in zip(written, pairs, strict=True):
        if not (flax and torch):
            raise ValueError(f"{option}: expected {expected}, got {whole!r}.")
    return [(flax, torch) for flax, _, torch in pairs]


def _inspect(path: Path, prefix: str | None, key: str | None, json: bool, code: bool) -> int:
    if code:
        report = code_of(checkpoints.read(path, prefix, key).tensors).rstrip("\n")
        return GOOD if printing.write(report) else BAD_INPUT
    found = inspection.inspect(path, prefix, key)
    if not printing.write(inspection.to_json(found) if json else inspection.render(found)):
        return BAD_INPUT
    return DIFFERS if found["problems"] else GOOD


def _export(**options: Any) -> int:
    printing.write(exporting.export(**options, say=_say))  # DST is written even if printing fails
    return GOOD


def _say(progress: str) -> None:
    """Print progress for people; programs that read stderr get errors only."""
    if sys.stderr.isatty():
        printing.write(f"{progress} ...", sys.stderr)
