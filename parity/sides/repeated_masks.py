"""Whether a call of Dropout draws another mask whenever a Flax module is called."""

from collections import OrderedDict
from typing import Any

import numpy as np

from parity.sides import dropout, trees
from parity.sides.nnx_running import Running, copies, held
from parity.sides.programs import Program
from parity.sides.side import Arrays, without_target
from parity.sides.variables import Named

MOST_RUNS = 20
"""Runs that must draw the same mask, which one of a single element does by chance."""


def repeated_masks(running: Running, leaves: Named, inputs: Arrays, dtype: str) -> list[int]:
    """The calls of Dropout, from 1, that draw the same mask whenever the module is called."""
    calls = 0

    def run(leaves: Named, inputs: Named, chosen: Any) -> tuple[Named, Named]:
        nonlocal calls
        model = running.variables.model(leaves)
        running.start_with_dropout(model)
        with dropout.one_at_random(chosen) as number:
            output = running.training_call(model, inputs)
        calls = number()
        return OrderedDict(trees.arrays(running.output, output)), held(model)

    def drawn(call: int, after: Named) -> tuple[Named, Named]:
        return program({**leaves, **after}, read, np.int32(call))

    def repeats(call: int) -> bool:
        first, after = drawn(call, {})
        if _same(first, undropped):  # JAX may trace a call more than once, and use one
            return False
        for _ in range(MOST_RUNS):
            again, after = drawn(call, after)
            if not _same(first, again):
                return False
        return True

    program = Program(run, simply=True)
    read = copies(without_target(inputs), dtype)
    undropped, _ = drawn(-1, {})
    return [call + 1 for call in range(calls) if repeats(call)]


def _same(one: Named, other: Named) -> bool:
    return all(np.array_equal(value, other[name], equal_nan=True) for name, value in one.items())
