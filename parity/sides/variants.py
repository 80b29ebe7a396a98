"""Variants of the inputs of a check: values of other sizes, and padding."""

from collections.abc import Iterator, Sequence

import numpy as np

from parity.sides.side import Arrays, differentiable

FACTORS = {"loud": 30.0, "quiet": 1e-3}
"""What a variant multiplies the floating inputs by. Loud ones saturate gates; quiet ones show what
is added to them, such as the ε of a normalization."""
VARIANTS = (*FACTORS, "padded")


def varied(
    inputs: Arrays, names: Sequence[str], lengths: np.ndarray | None = None
) -> Iterator[tuple[str, Arrays]]:
    """The inputs under the name "", then each variant that differs from them, by its name.

    Integers, and arrays of zeros and ones such as masks, stay as they are, except that "padded"
    has lengths from the longest down to 1.

    Args:
        inputs: the inputs of the models by name; an array `lengths` has a length per sequence.
        names: any of `VARIANTS`.
        lengths: the sequences' lengths if the models take `lengths` that are not in the inputs.

    Raises:
        ValueError: a name is not in `VARIANTS`.
    """
    unknown = [name for name in names if name not in VARIANTS]
    if unknown or isinstance(names, str):
        raise ValueError(f"variants: expected any of {VARIANTS} in a tuple, got {names!r}")
    yield "", inputs
    for name in names:
        changed = _padded(inputs, lengths) if name == "padded" else times(inputs, FACTORS[name])
        if not all(n in inputs and np.array_equal(inputs[n], a) for n, a in changed.items()):
            yield name, changed


def times(inputs: Arrays, factor: float) -> Arrays:
    """The inputs with the floating ones, but for masks, times a factor."""
    scaled = {n: inputs[n] * np.asarray(factor, inputs[n].dtype) for n in differentiable(inputs)}
    return {**inputs, **scaled}


def _padded(inputs: Arrays, lengths: np.ndarray | None) -> Arrays:
    """The inputs with lengths that differ, in descending order if they are: a model may need it."""
    lengths = inputs.get("lengths", lengths)
    if lengths is None:
        return inputs
    return {**inputs, "lengths": other_lengths(lengths)}


def other_lengths(lengths: np.ndarray) -> np.ndarray:
    """From the longest down to 1; the other way round, unless they are in descending order."""
    padded = np.linspace(lengths.max(initial=1), 1, len(lengths)).astype(lengths.dtype)
    return padded if (np.diff(lengths) <= 0).all() else padded[::-1]
