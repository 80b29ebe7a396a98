"""Other inputs than those that were given, on which a difference is noted, and fails nothing.

They may be such as the models never get. But they reach limits that the given ones do not, of
either model.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from parity.distance import Value
from parity.judge import judge_run
from parity.place import Place
from parity.results import Row
from parity.sides.data import like_lengths
from parity.sides.side import Arrays, Pair, Side, floating, outputs
from parity.sides.variants import FACTORS, other_lengths, redrawn, resized, times, varied
from parity.tolerances import TRUTH, smallest

GROSS = 100.0
"""A distance of so many bounds is no matter of rounding, such as of a variance of small numbers."""

WORDS = {
    "loud": "30 times the inputs", "quiet": "a thousandth of the inputs",
    "padded": "other lengths", "short": "shorter lengths", "negative": "the negative inputs",
    "resized": "another number of steps", "whole": "other whole numbers", "masks": "other masks",
}  # fmt: skip


def notes(pair: Pair, inputs: Arrays, place: Place) -> Iterator[str]:
    """A note for each kind of other inputs on which output or gradients differ."""
    _, *others = varied(inputs, tuple(FACTORS))
    others.append(("negative", times(inputs, -1.0)))
    for name in like_lengths(inputs):
        others.append((f"padded {name}", {**inputs, name: other_lengths(inputs[name])}))
        others.append((f"short {name}", {**inputs, name: np.maximum(inputs[name] - 1, 1)}))
    done: set[str] = set()
    for name, changed in (*others, *redrawn(inputs), *resized(inputs)):
        kind = name.partition(" ")[0]
        if {name, kind} & done or not all(map(_normal, changed.values())):
            continue
        found = list(_rows(pair, changed, place))
        if found:  # or else the reference does not take them, but maybe others of that name
            done.add(name)
        row = next((row for row in found if row.failed and not row.tightness < GROSS), None)
        if row is not None:
            done.add(kind)
            differs = f" differs by {row.distance:.3g}, allowed {row.bound:.3g}"
            words = f": {row.note}" if row.note else differs
            yield (
                f"elsewhere the models differ: on {WORDS[kind]}, {row.check} {row.name}{words}; "
                "if such inputs can come, check them, too"
            )


def _normal(array: np.ndarray) -> bool:
    """Whether no number is so small that it may be computed as 0."""
    if not floating(array):
        return True
    return bool((np.abs(array[array != 0]) >= smallest(str(array.dtype))).all())


def _rows(pair: Pair, inputs: Arrays, place: Place) -> Iterator[Row]:
    """The rows of the forward pass and of the gradients, if the reference has finite ones."""
    output = pair.reference.output

    def forward(side: Side, to: str) -> Arrays:
        stages = side.forward(side.parameters, inputs, to)
        return {name: stages[name] for name in outputs(stages, output)}

    def gradients(side: Side, to: str) -> Mapping[str, Value]:
        return side.gradients(side.parameters, inputs, to)

    runs: dict[str, Callable[[Side, str], Mapping[str, Value]]] = {
        "forward": forward, "gradients": gradients,
    }  # fmt: skip
    for check, run in runs.items():
        try:
            truth = run(pair.reference, TRUTH)
        except Exception:  # the user's code can raise anything on such inputs
            return
        if not all(a is None or np.isfinite(a).all() for a in truth.values()):
            return
        yield from judge_run(pair, run, Place(place.case, check, place.dtype), truth).rows
