"""The judge of one damaged checkpoint: it is read, or refused in words, and nothing is left."""

import contextlib
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from flax_bilstm import checkpoints
from flax_bilstm.cli import optimizer
from flax_bilstm.cli.convert import convert
from flax_bilstm.cli.inspect import inspect, render, to_json
from flax_bilstm.cli.job import Conversion
from flax_bilstm.conversion.optimizer import describe
from flax_bilstm.conversion.weights import from_state_dict

LIMIT = 5.0
"""Most CPU seconds for one checkpoint."""

HANG = 60
"""Seconds after which a command that waits, for a FIFO for example, is interrupted."""

MEMORY = 200 * 2**20
"""Most bytes by which the process' memory may grow."""

LONGEST = 8_000
"""Most characters of a message."""

Command = Callable[[Path], str]
"""What is done with a checkpoint; returns what is printed."""


def read(path: Path) -> str:
    """What every command begins with, and the optimizer in words."""
    found = checkpoints.read(path)
    words = [] if found.optimizer is None else [describe(found.optimizer)]
    return "\n".join([*found.notes, *words])


def inspected(path: Path) -> str:
    """The command `inspect`, for people and for programs."""
    found = inspect(path)
    return f"{render(found)}\n{to_json(found)}"


def optimizer_converted(path: Path) -> str:
    """The part of the command `convert` that makes an optimizer of optax, for an LSTM."""
    found = checkpoints.read(path)
    with jax.enable_x64(True):
        module = from_state_dict(found.tensors)
        job = Conversion(path, path.with_suffix(".orbax"))
        if found.optimizer is not None:
            optimizer.converted(job, module, found)
    return read(path)


def converted(ending: str) -> Command:
    """The command `convert`, to a format."""

    def command(path: Path) -> str:
        target = path.parent / f"converted{ending}"
        report = convert(Conversion(path, target), lambda progress: None)
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        return report

    return command


def outcome(path: Path, *commands: Command) -> str:
    """The outcome of the commands: "read", "refused", or a failure in words."""
    before, start, held = _beside(path), time.process_time(), _most_memory()
    with _interrupted(), _errors_of_threads() as printed:
        try:
            ended = _ended(path, commands)
        except Exception as error:  # any other error is a failure
            ended = f"failed: {type(error).__name__}: {error}"
    seconds, grown = time.process_time() - start, _most_memory() - held
    if seconds > LIMIT:
        return f"slow: {seconds:.1f} s, {ended}"
    if grown > MEMORY:
        return f"large: {grown:,} bytes, {ended}"
    if left := _beside(path) ^ before:
        return f"left behind: {sorted(map(str, left))}, {ended}"
    return f"printed: {printed[0]}, {ended}" if printed else ended


def _ended(path: Path, commands: tuple[Command, ...]) -> str:
    for command in commands:
        try:
            printed = command(path)
        except (ValueError, FileNotFoundError) as error:
            return "refused" if _is_ours(str(error), path) else f"unclear: {error!r}"
        if not _is_clean(printed):
            return f"unclear: {printed!r}"
    return "read"


def _is_ours(message: str, path: Path) -> bool:
    """Whether a message says where and what was expected, is safe to print and not endless."""
    begins = message.startswith((f"{path}: ", f"{path}/", "DST: ", "optimizer: ", "parameters: "))
    says = any(words in message for words in ("expected", "does not fit", "cannot be carried over"))
    return begins and says and _is_clean(message) and len(message) < LONGEST


def _is_clean(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def _beside(path: Path) -> set[Path]:
    return set(path.parent.rglob("*"))


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def _errors_of_threads() -> Iterator[list[Any]]:
    """What is printed to standard error, by libraries in C++ and their threads too."""
    printed: list[Any] = []
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield printed
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            printed += file.read(2_000).decode(errors="replace").splitlines()[-1:]


@contextlib.contextmanager
def _interrupted() -> Iterator[None]:
    def interrupt(number: int, frame: object) -> None:
        raise TimeoutError(f"it took {HANG} seconds")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(HANG)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
