"""The table of the kinds of checkpoints that are damaged."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tools.fuzzing import damage, distributed, folders, hugging_face, optimizers, orbax
from tools.fuzzing.damage import Write
from tools.fuzzing.folders import Folder
from tools.fuzzing.judge import Command, converted, inspected, optimizer_converted


class Kind(NamedTuple):
    """One kind of checkpoint.

    Attributes:
        title: its name.
        share: the share of its cases in a run.
        good: what writes good ones, which must be read.
        write: writes the damaged one of a generator's numbers to a path.
        commands: what is done with every checkpoint.
        seldom: what is done with every twentieth besides.
    """

    title: str
    share: float
    good: Callable[[], Sequence[Write]]
    write: Callable[[np.random.Generator, Path], None]
    commands: tuple[Command, ...] = (inspected,)
    seldom: tuple[Command, ...] = (converted(".safetensors"),)


def _good(originals: Callable[[], Sequence[Folder]]) -> Callable[[], Sequence[Write]]:
    return lambda: [functools.partial(folders.written, each, {}) for each in originals()]


KINDS = (
    Kind("files", 0.4, damage.good, damage.write),
    Kind("Orbax folders", 0.25, _good(orbax.originals), orbax.write),
    Kind("torch.distributed.checkpoint folders", 0.15, _good(distributed.originals),
         distributed.write),
    Kind("Hugging Face folders", 0.1, _good(hugging_face.originals), hugging_face.write),
    Kind("states of optimizers", 0.1, optimizers.good, optimizers.write, (optimizer_converted,),
         (inspected, converted(".orbax"))),
)  # fmt: skip
