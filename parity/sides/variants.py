"""Variants of the inputs of a check: values of other sizes, padding, other numbers of steps."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from parity.sides.data import like_lengths
from parity.sides.side import Arrays, differentiable, is_mask

FACTORS = {"loud": 30.0, "quiet": 1e-3}
"""What a variant multiplies the floating inputs by. Loud ones saturate gates; quiet ones show what
is added to them, such as the ε of a normalization."""
DRAWS = 4
"""How many times whole numbers and masks are drawn."""
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


def redrawn(inputs: Arrays) -> Iterator[tuple[str, Arrays]]:
    """The inputs with other whole numbers, and with others of zeros and ones, which masks are.

    Lengths stay as they are. Whole numbers are at first up to one more than the largest.
    """
    rng = np.random.default_rng(0)
    lengths = like_lengths(inputs)
    masks = {n: a for n, a in inputs.items() if a.ndim and is_mask(a) and n not in lengths}
    whole = {n: a for n, a in inputs.items() if a.ndim and a.size and a.dtype.kind in "iu"
             and n not in (*masks, *lengths)}  # fmt: skip
    for draw in range(DRAWS):
        if whole:
            for more in (1, 0):
                others = {n: _other_whole(a, more, rng) for n, a in whole.items()}
                yield f"whole {draw}", {**inputs, **others}
        if masks:
            yield f"masks {draw}", {**inputs, **{n: _other_mask(a, rng) for n, a in masks.items()}}


def _other_whole(array: np.ndarray, more: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers from 0, or, if it has negative ones, of its own; many of them twice."""
    low = min(0, array.min())
    if low < 0:
        made = rng.choice(np.unique(array), array.shape)
    else:
        most = min(int(array.max()) + more, np.iinfo(array.dtype).max)
        made = rng.integers(low, most, array.shape, endpoint=True)
    made[rng.random(array.shape) < 1 / 4] = low
    for other in (np.roll(made, 1, -1), made[..., :1]):
        made = np.where(rng.random(array.shape) < 1 / 4, other, made)
    return made.astype(array.dtype)


def _other_mask(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Of zeros and ones at random; the first of each row stays, so that not all are masked."""
    made = rng.random(array.shape) < array.mean() / 2 + 1 / 4
    made[..., 0] = array[..., 0]
    return made.astype(array.dtype)


def resized(inputs: Arrays) -> Iterator[tuple[str, Arrays]]:
    """The inputs with another number of steps, or another width of images.

    A longer one has all steps again, and one or two more, so that an odd number becomes even.
    """
    for axis in (1, -1):
        for change in (_longer, _cut):
            changed = _along(inputs, axis, change)
            if changed:
                yield "resized", changed


def _along(
    inputs: Arrays, axis: int, change: Callable[[np.ndarray, int], np.ndarray]
) -> dict[str, np.ndarray]:
    """The inputs, each changed along all axes that are as long as this one of the first input."""
    first = next((a for a in inputs.values() if a.ndim > 1), np.zeros((0, 0)))
    size = first.shape[axis]
    changed = dict(inputs)
    for name, array in inputs.items():
        for at in range(1, array.ndim):
            if array.shape[at] == size:
                changed[name] = change(changed[name], at)
    return changed if size > 1 else {}


def _longer(array: np.ndarray, axis: int) -> np.ndarray:
    size = array.shape[axis]
    more = array.take(range(size + 1 + size % 2), axis, mode="wrap")
    return np.concatenate([array, np.zeros_like(more) if is_mask(array) else more], axis)


def _cut(array: np.ndarray, axis: int) -> np.ndarray:
    return array.take(range(array.shape[axis] - 1), axis)
