"""The stages that both sides have, found by running the reference and tracing the candidate."""

from collections.abc import Sequence

import numpy as np

from parity.sides.nnx_side import NnxSide
from parity.sides.recurrent import STATES
from parity.sides.side import Arrays, floating, outputs
from parity.sides.torch_side import TorchSide
from parity.tolerances import TRUTH

MOST = 5
"""How many stages a note names: more are for nobody to read."""


def common_stages(
    reference: TorchSide, candidate: NnxSide, inputs: Arrays
) -> tuple[frozenset[str], list[str]]:
    """The stages that both sides have, and notes on stages that are left out.

    A stage whose shapes differ is kept if the outputs' shapes differ too: it may be the cause,
    unless only the order of its axes differs.

    Raises:
        ValueError: the reference does not take the inputs, returns nothing, or is random.
    """
    theirs = _of_reference(reference, inputs)
    try:
        ours = candidate.shapes(candidate.parameters, inputs, TRUTH)
    except Exception:  # the check raises the same error, and makes a row of it
        return frozenset(), []
    both = [name for name in theirs if name in ours]
    either = outputs((*theirs, *ours), reference.output)
    right = all(
        name in ours and ours[name].shape == theirs[name].shape
        for name in outputs(theirs, reference.output)
    )
    other = [
        n
        for n in both
        if n not in either
        and ours[n].shape != theirs[n].shape
        and (right or sorted(ours[n].shape) == sorted(theirs[n].shape))
    ]
    # A mask may be of booleans on one side, and of what is added to scores on the other.
    of_kinds = (n for n in both if ".input" in n and floating(ours[n]) != floating(theirs[n]))
    other = list(dict.fromkeys((*other, *of_kinds)))
    # One side calls its LSTM for some steps at a time, so that its states are others, too.
    calls = {name.removesuffix(".output") for name in other if name.endswith(".output")}
    other += [name for name in both if name.endswith(STATES) and name[:-4] in calls]
    hidden = candidate.running.hidden
    known = {*both, *either}
    absent = [
        name for name in theirs
        if name not in known
        and name.partition("[")[0].partition(".input")[0] not in hidden
    ]  # fmt: skip
    notes = {
        "not intercepted, since a JAX transformation calls them: {}": sorted(hidden),
        "flax_model changes {}, so only first calls are compared": sorted(candidate.running.moved),
        "stages that flax_model does not have, or computes inside a transformation such as "
        "nnx.jit, left out: {}": absent,
        "stages of flax_model alone, left out: {}": [n for n in ours if n not in known],
        "stages of another shape or kind on either side, left out: {}": other,
    }
    chosen = frozenset(both) - frozenset(other) - frozenset(either)
    return chosen, [words.format(_listed(names)) for words, names in notes.items() if names]


def _listed(names: Sequence[str]) -> str:
    """The first of the names."""
    more = len(names) - MOST
    return ", ".join(names[:MOST]) + (f" and {more} more" if more > 0 else "")


def _of_reference(reference: TorchSide, inputs: Arrays) -> Arrays:
    """The reference's stages, if it returns something, and the same when it is called again."""
    try:
        stages = reference.forward(reference.parameters, inputs, TRUTH)
    except Exception as error:  # the user's code can raise anything
        sizes = {name: f"{array.dtype}{list(array.shape)}" for name, array in inputs.items()}
        raised = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"x: torch_model, called in float64 with {sizes}, raises {raised}"
        ) from error
    returned = [stages[name] for name in outputs(stages, reference.output)]
    if not any(array.size for array in returned):
        raise ValueError(
            "x: torch_model returns no numbers for it, so that nothing could be compared; expected "
            f"at least one, got outputs of shapes {[array.shape for array in returned]}"
        )
    if not any(np.isfinite(array).any() for array in returned):
        raise ValueError("x: torch_model returns no finite number for it, so that nothing is known")
    again = reference.forward(reference.parameters, inputs, TRUTH)
    if any(not np.allclose(array, again[n], equal_nan=True) for n, array in stages.items()):
        raise ValueError(
            "torch_model: called twice with the same inputs, it returns different numbers: it is "
            "random in evaluation mode, or keeps something from call to call; switch that off"
        )
    return stages
