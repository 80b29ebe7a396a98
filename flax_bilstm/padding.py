"""Where each sequence of a padded batch lies: `lengths`, or a `mask` with padding on either side.

The recurrence and the attention want every sequence to start at step 0. A sequence that is padded
at its beginning is shifted there, and its results are shifted back.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from flax_bilstm import arguments
from flax_bilstm.recurrence.equations import Size


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
        return None if lengths is None else Spans(arguments.lengths(lengths, batch, time))
    if lengths is not None:
        raise ValueError(
            "mask: expected None beside lengths, got both; pass the one that describes the padding."
        )
    steps = arguments.mask(mask, batch, time)
    start, count = steps.argmax(1).astype(np.int32), steps.sum(1, dtype=np.int32)
    if isinstance(steps, np.ndarray):
        return Spans(jnp.asarray(count), jnp.asarray(start) if start.any() else None)
    begun = (steps[:, 1:] & ~steps[:, :-1]).sum(1, dtype=np.int32) + steps[:, 0].astype(np.int32)
    return Spans(count, start, begun <= 1)


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
