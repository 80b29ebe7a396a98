"""parity [CHECKPOINT], parity selftest: exit 0 passed, 1 differs, 2 bad input."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console

from flax_bilstm.showing import shown
from parity.arguments import MOST_STEPS
from parity.checks import Progress
from parity.proof import digits, own, published
from parity.render import text as rendering
from parity.report import Report
from parity.sides.variants import VARIANTS

MOST_SEEDS, MOST_JOBS, MOST_NETWORKS = 10_000, 1_024, 10**7

PASSED, DIFFERS, BAD_INPUT = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    console, errors = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)
    if not console.is_terminal:
        console.width = rendering.WIDTH
    if arguments[:1] == ["selftest"]:  # write ./selftest for a checkpoint with this name
        return _selftest(arguments[1:], console, errors)
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)  # more threads are slower on matrices this small
    try:
        if options.output.exists() and not options.output.is_dir():
            raise ValueError(f"--output: expected a folder, or nothing yet, at {options.output}")
        with _progress(errors) as progress, _no_exit():
            report = _report(options, progress)
        report.write(options.output)
        if options.checkpoint is None and options.reference is None:
            digits.draw_losses(report, options.output / "loss.png")
    except (OSError, ValueError, TypeError, ImportError) as error:
        errors.print(f"parity: {error}", markup=False, highlight=False)
        return BAD_INPUT
    rendering.print_to(report, console)
    console.print(f"report: {options.output}/report.html, report.md, report.json", highlight=False)
    return PASSED if report.passed else DIFFERS


def _report(options: argparse.Namespace, progress: Progress) -> Report:
    """The proof that the options ask for."""
    size = options.seeds, options.steps, options.jobs
    theirs, ours = options.reference, options.candidate
    if theirs is None and ours is None:
        if options.input or options.names or options.ignore or options.known:
            raise ValueError(
                "--input, --names, --ignore, --known: expected --reference and --candidate too"
            )
        if options.checkpoint is None:
            return published.whole(*size, progress)
        return published.of_checkpoint(options.checkpoint, *size, progress)
    if theirs is None or ours is None or not options.input:
        raise ValueError("expected all of --reference, --candidate and --input, or none of them")
    return own.proof(
        options.checkpoint, theirs, ours, options.input, ignore=options.ignore,
        names=_pairs("--names", "FLAX=TORCH", options.names), variants=options.variants,
        known=_pairs("--known", "PATTERN=REASON", options.known),
        seeds=options.seeds, steps=options.steps, progress=progress,
    )  # fmt: skip


def _pairs(option: str, form: str, given: Sequence[str]) -> dict[str, str]:
    """The table from arguments of a form such as FLAX=TORCH."""
    wrong = [each for each in given if not all(each.partition("="))]
    if wrong:
        raise ValueError(f"{option}: expected {form}, got {wrong[0]!r}")
    return {key: value for key, _, value in (each.partition("=") for each in given)}


def _selftest(arguments: Sequence[str], console: Console, errors: Console) -> int:
    from parity.selftest import ports, reordering
    from parity.selftest import run as selftest

    parser = argparse.ArgumentParser(
        prog="parity selftest",
        description="Plant faults, one at a time, and show that each is caught, placed at its "
        "stage and named; and that unfaulted networks pass. Exit status: 0 all of it, 1 not all.",
    )
    parser.add_argument(
        "--clean-runs",
        type=int,
        default=40,
        metavar="N",
        help="unfaulted networks to check, of several sizes and seeds (default: 40)",
    )
    parser.add_argument(
        "--false-alarms",
        type=_up_to(MOST_NETWORKS),
        metavar="N",
        help="instead of all that, in a far wider population: N networks in PyTorch, each against "
        "itself with its hidden units in another order, and N against right ports by hand; exit "
        "status 1 if any raises an alarm",
    )
    _add_jobs(parser)
    options = parser.parse_args(arguments)
    if options.clean_runs < 0:
        parser.error(f"--clean-runs: expected a whole number from 0, got {options.clean_runs}")

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    with _progress(errors) as progress:
        if options.false_alarms:
            every = [
                reordering.run(outcome, what, options.false_alarms, options.jobs, say, progress)
                for what, outcome in ports.POPULATIONS.items()
            ]
            passed = all(every)
        else:
            passed = selftest.run(options.clean_runs, options.jobs, say, progress)
    return PASSED if passed else DIFFERS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="parity",
        description="Prove that the Flax model computes what its PyTorch reference computes: "
        "forward, gradients and training, in float64 and float32. Exit status: 0 passed, "
        "1 something differs, 2 bad input.",
    )
    parser.add_argument(
        "checkpoint",
        nargs="?",
        type=Path,
        metavar="CHECKPOINT",
        help="a state dict (.pt, .pth, .safetensors) of the network or of a batch-first nn.LSTM; "
        "without one: the published size with random weights, then handwritten digits",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("parity-report"),
        metavar="DIR",
        help="where the report is written (default: parity-report)",
    )
    parser.add_argument(
        "--seeds",
        type=_up_to(MOST_SEEDS),
        default=3,
        metavar="N",
        help="seeds per shape (default: 3)",
    )
    parser.add_argument(
        "--steps",
        type=_up_to(MOST_STEPS),
        default=10,
        metavar="N",
        help="training steps per optimizer (default: 10)",
    )
    _add_jobs(parser)
    port = parser.add_argument_group(
        "a port of your own",
        "CHECKPOINT is then loaded into both models; without one they are compared as they are "
        "made. Code is imported from the current folder, too.",
    )
    port.add_argument(
        "--reference",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="a function that makes the torch.nn.Module",
    )
    port.add_argument(
        "--candidate",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="a function that makes the nnx.Module, or a function of (state dict, inputs)",
    )
    port.add_argument(
        "--input",
        metavar="INPUT",
        action="append",
        default=[],
        help=f"what both are called with: {own.INPUT}. Drawn ones are drawn anew for every seed. "
        "Repeated: by position. The arrays of a .npz are given by position in their order; one "
        "called target is the loss's",
    )
    port.add_argument(
        "--variants",
        nargs="*",
        choices=VARIANTS,
        default=VARIANTS,
        help="other inputs to check, too: the first ones 30 times as loud, a thousand times as "
        "quiet, and with other lengths if one is called lengths (default: all)",
    )
    port.add_argument(
        "--names",
        metavar="FLAX=TORCH",
        action="append",
        default=[],
        help="names that differ in PyTorch; may be repeated",
    )
    port.add_argument(
        "--ignore",
        metavar="PATTERN",
        action="append",
        default=[],
        help="torch names without a counterpart; may be repeated",
    )
    port.add_argument(
        "--known",
        metavar="PATTERN=REASON",
        action="append",
        default=[],
        help="a known difference, which fails nothing: a pattern of rows' names, or check/name, "
        "and why they differ; may be repeated",
    )
    return parser


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs",
        type=_up_to(MOST_JOBS),
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes at once (default: one per core)",
    )


def _up_to(most: int) -> Callable[[str], int]:
    """What reads a whole number from 1 to `most`."""

    def number(text: str) -> int:
        if not text.isdecimal() or len(text) > 20 or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"expected a whole number from 1 to {most:,}, got {shown(text)}"
            )
        return int(text)

    return number


@contextmanager
def _no_exit() -> Iterator[None]:
    """Raise ValueError for the user's code that ends the program, whose status would be ours."""
    try:
        yield
    except SystemExit as error:
        raise ValueError(
            f"--reference, --candidate: their code calls exit({error.code})"
        ) from error


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    """Shows progress: a live line in a terminal, otherwise at most a line every two seconds."""
    if console.is_terminal:
        with console.status("starting") as status:
            yield status.update
        return
    last = time.monotonic()

    def line(what: str) -> None:
        nonlocal last
        if time.monotonic() - last >= 2:
            last = time.monotonic()
            console.print(f"… {what}", markup=False, highlight=False)

    yield line
