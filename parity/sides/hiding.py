"""What hides mistakes from a check, in words: names, parameters and inputs that show too little."""

from collections.abc import Collection, Iterator
from itertools import combinations

import numpy as np

from parity.sides.data import like_lengths
from parity.sides.side import Arrays, floating, is_mask, without_target


def notes(
    ignored: Collection[str],
    parameters: Arrays,
    inputs: Arrays,
    defaults: Collection[str],
    rounded: Collection[str],
) -> Iterator[str]:
    """The notes for the report.

    Args:
        ignored: the names of parameters and buffers that are not compared.
        parameters: those that are compared.
        inputs: those that both models read, and the targets.
        defaults: the names of the models' arguments that nothing is passed for.
        rounded: the names of the reference's constants in float32.
    """
    if rounded:
        yield (
            f"{', '.join(rounded)} of torch_model was rounded to float32 when it was made, which "
            "float64 shows, unless the candidate has the same numbers; make it of Python's numbers"
        )
    if defaults:
        yield f"compared only with the default of: {', '.join(sorted(defaults))}"
    still = [n for n, a in inputs.items() if a.size > 1 and (a == a.flat[0]).all()]
    if still:
        yield f"all numbers are the same in {', '.join(still)}, which hides most mistakes"
    idle = [n for n, a in inputs.items() if a.size == 1 and not a.any()]
    if idle:
        yield f"{', '.join(idle)} is 0, which hides most mistakes"
    empty = [n for n, a in inputs.items() if not a.size]
    if empty:
        yield f"{', '.join(empty)} has no numbers, which hides all mistakes with it"
    rows = [n for n, a in inputs.items() if a.ndim > 1 and len(a) > 1 and (a == a[:1]).all()]
    if set(rows) - set(still):
        yield f"all rows are the same in {', '.join(rows)}, which hides how sequences are mixed"
    equal = [
        f"{one} and {other}"
        for one, other in combinations((n for n in inputs if n not in still), 2)
        if np.array_equal(inputs[one], inputs[other])
    ]
    if equal:
        yield f"{', '.join(equal)} are equal, which hides that one is read for the other"
    lengths = [n for n in like_lengths(inputs) if n not in still]
    ordered = [n for n in lengths if len(inputs[n]) > 1 and (np.diff(inputs[n]) <= 0).all()]
    if ordered:
        yield f"{', '.join(ordered)} is sorted, which hides whether that is undone"
    single = [n for n, a in inputs.items() if a.size > 1 and 1 in a.shape[: a.ndim - 1]]
    if single:
        yield (
            f"an axis of {', '.join(single)} has size 1, which hides mistakes along it, such as of "
            "sequences or steps"
        )
    if ignored:
        yield f"ignored, so neither compared nor trained alike: {', '.join(ignored)}"
    symmetric = [name for name, array in parameters.items() if _is_symmetric(array)]
    if symmetric:
        yield f"{', '.join(symmetric)} equals its transpose, which hides whether it is needed"
    if parameters and not any(map(np.any, parameters.values())):
        yield "every parameter is 0: most mistakes leave no trace in what is computed then"
    read = without_target(inputs).items()
    complex_inputs = [name for name, array in read if array.dtype.kind == "c"]
    if complex_inputs:
        yield f"the gradient at complex inputs is not compared: {', '.join(complex_inputs)}"
    masks = [name for name, array in read if floating(array) and is_mask(array)]
    if masks:
        yield f"the gradient at inputs of 0 and 1 is not compared: {', '.join(masks)}"


def _is_symmetric(array: np.ndarray) -> bool:
    """Whether a matrix equals its transpose; if it is diagonal, another run has other numbers."""
    if array.ndim != 2 or not array.size or not np.array_equal(array, array.T):
        return False
    return bool((array != array.flat[0]).any() and (array != np.diag(np.diag(array))).any())
