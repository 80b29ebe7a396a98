"""What the inputs do not reach: limits that no value exceeds, comparisons with one result.

A port that lacks such a limit or mask computes the same on them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity.sides.data import target_shape
from parity.sides.losses import LOSSES, SQUARES
from parity.sides.noting import Noted, Seen
from parity.sides.side import TARGET, Arrays
from parity.sides.torch_masks import FixedDropout
from parity.sides.torch_side import TorchSide
from parity.sides.unexecuted import Lines


def of_reference(reference: TorchSide, inputs: Arrays, training: bool = False) -> list[str]:
    """Notes on what these inputs do not reach, if there is anything.

    Args:
        reference: the reference.
        inputs: what it and the loss read.
        training: whether to run it in training mode, too, forward and backward.
    """
    inputs = _with_target(reference, inputs)
    lacks_target = TARGET not in inputs and reference.loss in LOSSES  # a pair may be made without
    loss = SQUARES if lacks_target else reference.loss
    lines = Lines(reference.module, reference.loss.torch)
    integers = {n: torch.from_numpy(a) for n, a in inputs.items() if a.dtype.kind in "iu"}

    def noted(prepare: Callable[[torch.nn.Module], Any]) -> Noted:
        seen = Seen(integers)
        with lines.watched(), seen.watched():
            reference.run_copy(inputs, prepare, FixedDropout(), loss)
        return seen.reached

    reached = noted(torch.nn.Module.eval)
    if training:
        also = noted(torch.nn.Module.train)
        known = {(words, frames) for words, (frames, _) in reached}
        reached |= {
            (words, caller): found
            for (words, caller), found in also.items()
            if (words, caller[0]) not in known
        }
    notes = {
        "not reached by these inputs, so not compared: ": list(_missed(reached)),
        "lines that no run executes, so not compared: ": lines.missed() if training else [],
    }
    return [what + ", ".join(found) for what, found in notes.items() if found]


def _with_target(reference: TorchSide, inputs: Arrays) -> Arrays:
    """The inputs with a target that is drawn, if the loss reads one that they lack."""
    if TARGET in inputs or not reference.loss.targeted:
        return inputs
    shape = target_shape(reference, inputs)
    return {**inputs, TARGET: np.random.default_rng(0).standard_normal(shape)}


def _missed(reached: Noted) -> Iterator[str]:
    """What is not reached, with its places; and whose call of a place if another one reaches it."""
    reaching = {(words, frames[:1]) for (words, (frames, _)), found in reached.items() if found}
    missed: dict[str, dict[str, None]] = {}
    for (words, (frames, _)), found in reached.items():
        if not found:
            place, *callers = [
                f"{Path(file).name}:{line}".removesuffix(":0") for file, line, _ in frames
            ]
            if callers and (words, frames[:1]) in reaching:
                place += f" called at {callers[0]}"
            missed.setdefault(words, {})[place] = None
    for words, places in missed.items():
        yield f"{words} ({', '.join(places)})"
