"""Four processes write one checkpoint at once, and some are killed with SIGKILL on the way."""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from flax import nnx

import flax_bilstm as fb
from flax_bilstm import checkpoints
from flax_bilstm.checkpoints import orbax_writing
from flax_bilstm.checkpoints.replacing import TEMPORARY, replacing

WRITERS = 4
REFUSED = 3
"""The exit code of a writer that came too late."""

LATEST = {".safetensors": 0.03, ".pt": 0.03, ".orbax": 2.0}
"""Ending → the most seconds after which a writer is killed: about as long as one needs."""

Ends = dict[int, int]
"""Number → the exit code of its writer: 0, REFUSED, or −9 if it was killed."""

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["flax_bilstm", "orbax.checkpoint", __name__])


def write(path: Path, number: int, overwrite: bool) -> None:
    """Write a checkpoint whose values are all `number`, or exit with REFUSED."""
    arrays = {f"weight_{i}": np.full((64, 64), number, np.float32) for i in range(8)}
    writer = checkpoints.FORMATS[path.suffix].write
    try:
        with replacing(path, overwrite=overwrite) as temporary:
            if writer is not None:
                writer(arrays, temporary)
            else:
                orbax_writing.write(
                    nnx.Dict({n: nnx.Param(a) for n, a in arrays.items()}), temporary
                )
    except ValueError as error:
        sys.exit(REFUSED if "exists already" in str(error) else str(error))


def number_in(path: Path) -> int | None:
    """The number that a whole checkpoint holds, or None if there is none; fails if it is mixed."""
    if not path.exists():
        return None
    tensors = fb.checkpoints.read(path).tensors
    numbers = {float(value) for array in tensors.values() for value in np.unique(array)}
    assert len(tensors) == 8, f"{len(tensors)} of 8 arrays"
    assert len(numbers) == 1, f"versions {sorted(numbers)} in one checkpoint"
    return int(numbers.pop())


def killed_at_random(path: Path, numbers: list[int], overwrite: bool, rng: random.Random) -> Ends:
    """Start a writer for each number, and kill some of them."""
    writers = [
        PROCESSES.Process(target=write, args=(path, number, overwrite)) for number in numbers
    ]
    for writer in writers:
        writer.start()
    for writer in rng.sample(writers, rng.randrange(WRITERS)):
        time.sleep(rng.random() * LATEST[path.suffix] / 2)
        with contextlib.suppress(ProcessLookupError):
            os.kill(writer.pid or 0, signal.SIGKILL)
    for writer in writers:
        writer.join()
    return {number: w.exitcode or 0 for number, w in zip(numbers, writers, strict=True)}


def judge(before: int | None, after: int | None, ends: Ends, overwrite: bool) -> None:
    """Raise AssertionError if what stands there now is not what these writers may have left."""
    unexpected = set(ends.values()) - {0, REFUSED, -signal.SIGKILL}
    assert not unexpected, f"exit codes {unexpected}"
    written: list[int | None] = [number for number, code in ends.items() if code == 0]
    killed = [number for number, code in ends.items() if code == -signal.SIGKILL]
    if overwrite:
        assert REFUSED not in ends.values(), "refused although it may overwrite"
        assert after in [*(written or [before]), *killed], f"{after}: neither old nor new"
    elif before is not None:
        assert after == before, "replaced without overwrite"
        assert not written, "said to be written, and was not"
    else:
        assert len(written) <= 1, f"{len(written)} writers say that they have written it"
        assert after in (written or [*killed, None]), f"{after}: not what was written"


def run(folder: Path, ending: str, rounds: int) -> Iterator[str]:
    """One line for each round that failed; at the end, one if something is left behind.

    In a third of the rounds nothing is there before, in a third nothing may be overwritten.
    """
    path, rng = folder / f"model{ending}", random.Random(0)
    for round_ in range(rounds):
        overwrite = round_ % 3 != 1
        if round_ % 3 == 0:
            _remove(path)
            overwrite = bool(round_ % 2)
        numbers = [WRITERS * round_ + i + 1 for i in range(WRITERS)]
        try:
            before = number_in(path)
            ends = killed_at_random(path, numbers, overwrite, rng)
            judge(before, number_in(path), ends, overwrite)
        except (AssertionError, ValueError) as error:
            yield f"{ending}, round {round_}: {error}"
    for left in folder.glob(f"{TEMPORARY}*"):
        os.utime(left, (0, 0))  # as if an hour had passed
    _remove(path)
    write(path, 1, overwrite=False)
    left_behind = [left.name for left in folder.iterdir() if left != path]
    if left_behind:
        yield f"{ending}: left behind: {', '.join(left_behind)}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
