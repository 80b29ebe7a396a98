"""The rows of what a check is handed over: parameters, inputs, and settings of training mode."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from parity.comparison import identical, not_finite
from parity.distance import magnitude
from parity.lockstep import names
from parity.place import Case, Place
from parity.results import Row, without_distance
from parity.sides.side import Arrays, Pair, Side, floating, outputs
from parity.tolerances import DTYPES, TRUTH, epsilon


def rows(pair: Pair, inputs: Arrays, case: Case) -> Iterator[Row]:
    """The rows of parameters, which must be equal, and of inputs.

    These must be finite, unless the reference has a use for others: its output is finite.
    """
    ours, theirs = pair.candidate.parameters, pair.reference.parameters
    for name in names(theirs, ours):
        yield identical(
            theirs.get(name), ours.get(name), Place(case, "parameters", name=name),
            "the two sides hold different values",
        )  # fmt: skip
    finite = {name: bool(np.isfinite(array).all()) for name, array in inputs.items()}
    used = not all(finite.values()) and _gives_finite_output(pair.reference, inputs)
    for name, array in inputs.items():
        place = Place(case, "inputs", name=name)
        if finite[name] or used:
            yield Row(**vars(place), passed=True, scale=magnitude(array), size=array.size)
        else:
            yield without_distance(place, f"the input {not_finite(array)}")


def _gives_finite_output(reference: Side, inputs: Arrays) -> bool:
    stages = reference.forward(reference.parameters, inputs, TRUTH)
    return all(np.isfinite(stages[n]).all() for n in outputs(stages, reference.output))


def settings(pair: Pair, case: Case) -> Iterator[Row]:
    """The rows of the settings of training mode."""
    for setting in pair.settings:
        row = Row(case, "training mode", name=setting.name, passed=setting.equal)
        note = f"{setting.words}; if that is meant, say so with known="
        yield row if setting.equal else replace(row, distance=float("nan"), note=note)


def in_no_dtype_of(reference: Side, dtypes: Sequence[str]) -> Iterator[str]:
    """A note on parameters in a dtype that nothing is computed in, narrower than those."""
    stored = {str(a.dtype) for a in reference.parameters.values() if floating(a)}
    for dtype in sorted(stored - {*dtypes, *DTYPES}):
        if epsilon(dtype) > max(map(epsilon, dtypes)):
            yield f"parameters are stored in {dtype}, but nothing was computed in it"
