"""Where each sequence of a padded batch lies: `lengths`, or a `mask` with padding on either side.

The recurrence and the attention want every sequence to start at step 0. A sequence that is padded
at its beginning is shifted there, and its results are shifted back.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int

from flax_bilstm import arguments
from flax_bilstm.recurrence.equations import Size
from flax_bilstm.torch_tensors import kind_and_way


class Spans(NamedTuple):
    """The steps of each sequence. `start` is None if all start at step 0, `whole` if all are."""

    lengths: Int[Array, " batch"]
    start: Int[Array, " batch"] | None = None
    whole: Bool[Array, " batch"] | None = None


def spans(lengths: Any, mask: Any, batch: Size, time: Size) -> Spans | None:
    """The steps that `lengths` (batch,) or `mask` (batch, time) describes; None if both are None.

    Raises:
        TypeError: one of them is no array.
        ValueError: both are given; or a shape, a dtype or a known value does not fit.
    """
    if mask is None:
        return None if lengths is None else Spans(checked_lengths(lengths, batch, time))
    if lengths is not None:
        raise ValueError(
            "mask: expected None beside lengths, got both; pass the one that describes the padding."
        )
    steps = checked_mask(mask, batch, time)
    start, count = steps.argmax(1).astype(np.int32), steps.sum(1, dtype=np.int32)
    if isinstance(steps, np.ndarray):
        return Spans(jnp.asarray(count), jnp.asarray(start) if start.any() else None)
    begun = (steps[:, 1:] & ~steps[:, :-1]).sum(1, dtype=np.int32) + steps[:, 0].astype(np.int32)
    return Spans(count, start, begun <= 1)


def checked_lengths(value: ArrayLike, batch: Size, time: Size) -> Int[Array, " batch"]:
    """`value` as an int array (batch,), each from 1 to time where the values are known.

    Under a trace the values are unknown and cannot raise: a length above `time` counts as `time`,
    one below 1 as an empty sequence (outputs 0, final state = initial state, attention weights 0).
    """
    given, unknown = _values("lengths", value, f"{batch} integers")
    if given.ndim == 2 and given.shape[0] == batch:
        raise ValueError(
            f"lengths: expected shape ({batch},), got shape {given.shape}, that of a mask; pass it "
            "as mask=."
        )
    if given.shape != (batch,) or not jnp.issubdtype(given.dtype, jnp.integer):
        raise ValueError(
            f"lengths: expected {batch} integers, one for each sequence of the batch, shape "
            f"({batch},), got shape {given.shape} and dtype {given.dtype}."
        )
    if not unknown:
        wrong = np.flatnonzero((given < 1) | (given > time))
        if wrong.size:
            raise ValueError(
                f"lengths: expected values from 1 to {time} (the time axis), got "
                f"lengths[{wrong[0]}] = {given[wrong[0]]} ({wrong.size} of {batch} are out of "
                "range); drop empty sequences and check the padding."
            )
    steps = jnp.asarray(value)
    if jnp.iinfo(steps.dtype).bits < 32:
        steps = steps.astype(jnp.int32)  # time may not fit into a narrower dtype
    return jnp.clip(steps, 0, jnp.asarray(time, steps.dtype)).astype(jnp.int32)


def checked_mask(value: Any, batch: Size, time: Size) -> Any:
    """`value` as a bool array (batch, time): a NumPy one where the values are known, else JAX's.

    Known values are checked: each row is ones followed by zeros, or zeros followed by ones.
    """
    expected = f"booleans (batch, time) = ({batch}, {time}), True for the steps of the sequence"
    given, unknown = _values("mask", value, expected)
    kinds = (jnp.bool_, jnp.integer)
    if given.shape != (batch, time) or not any(jnp.issubdtype(given.dtype, k) for k in kinds):
        raise ValueError(
            f"mask: expected {expected}, got shape {given.shape} and dtype {given.dtype}."
        )
    if unknown:
        return jnp.asarray(given).astype(bool)
    if ((given != 0) & (given != 1)).any():
        raise ValueError(f"mask: expected {expected}, got integers other than 0 and 1.")
    steps = given != 0
    changes = (steps[:, 1:] != steps[:, :-1]).sum(axis=1)
    wrong = np.flatnonzero((changes > 1) | ~steps.any(axis=1))
    if wrong.size:
        raise ValueError(
            "mask: expected in each row ones and then zeros (padding at the end), or zeros and "
            f"then ones (padding at the beginning), got {_row(steps[wrong[0]])} in row {wrong[0]} "
            f"({wrong.size} of {batch} rows are wrong); move each sequence's steps together."
        )
    return steps


def _row(steps: np.ndarray) -> str:
    """A row of a mask for a message: 0110, at most 20 digits."""
    return "".join("01"[int(step)] for step in steps[:20]) + "…" * (len(steps) > 20)


def _values(name: str, value: Any, expected: str) -> tuple[Any, bool]:
    """`value` as an array, and whether its numbers are unknown; TypeError if it cannot be one."""
    unknown = isinstance(value, jax.core.Tracer) or not getattr(value, "is_fully_addressable", True)
    try:
        return (value if unknown else np.asarray(value)), unknown
    except Exception as error:  # from NumPy, JAX or PyTorch
        got = kind_and_way(value) or f"{arguments.quoted(value)}, which is not such an array"
        raise TypeError(f"{name}: expected {expected}, got {got}.") from error


def from_start(x: Array, found: Spans, axis: int) -> Array:
    """x (batch and time first; time is `axis`) with each sequence shifted to step 0.

    One of several parts, which only a mask of unknown values can describe, becomes NaN.
    """
    if found.start is None:
        return x
    if found.whole is not None:
        whole = jnp.expand_dims(found.whole, (axis, *range(2, x.ndim)))
        x = jnp.where(whole, x, jnp.full_like(x, jnp.nan))
    return _later(x, -found.start, axis)


def in_place(results: Array, found: Spans | None, axis: int) -> Array:
    """Results of `from_start`, shifted back to where the steps were."""
    return results if found is None or found.start is None else _later(results, found.start, axis)


def _later(array: Array, steps: Array, axis: int) -> Array:
    """`array` with each sequence moved by its `steps` along the time axis, round the end."""
    time = array.shape[axis]
    own = (jnp.arange(time, dtype=steps.dtype)[None] - steps[:, None]) % time  # (batch, time)
    own = jnp.expand_dims(own if axis == 1 else own.T, tuple(range(2, array.ndim)))
    return jnp.take_along_axis(array, own, axis)
