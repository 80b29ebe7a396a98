"""What a caller may hand in, checked at the door: every error says what was expected and what came.

Shapes and dtypes are always known, so they are checked under `jax.jit` too. Values (of `lengths`)
are checked whenever they are known, that is, outside of a trace.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Int

from flax_bilstm.recurrence.equations import Size


def _array(name: str, value: Any) -> Array:
    """`value` as a JAX array; TypeError where it is none."""
    try:
        return jnp.asarray(value)
    except Exception as error:  # of JAX, NumPy or the library whose tensor it is
        raise TypeError(
            f"{name}: expected an array of numbers, got {type(value).__name__}; convert it with "
            "numpy.asarray first."
        ) from error


def sequence(
    name: str, x: ArrayLike, layouts: tuple[str, ...], width: int, time_axis: int
) -> Array:
    """`x` as a JAX array: floating, of one of the `layouts`' ranks, `width` features, time ≥ 1.

    `time_axis` is that of a batched x. Raises ValueError otherwise.
    """
    x = _array(name, x)
    expected = " or ".join(layouts)
    if x.ndim not in {len(layout.split(",")) for layout in layouts}:
        raise ValueError(f"{name}: expected {expected}, got shape {x.shape} of rank {x.ndim}.")
    if x.shape[-1] != width:
        raise ValueError(
            f"{name}: expected {width} features on the last axis, {expected}, got shape {x.shape}."
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"{name}: expected a floating dtype, got {x.dtype}; convert it with x.astype(...)."
        )
    axis = time_axis if x.ndim == 3 else 0
    if x.shape[axis] == 0:
        raise ValueError(
            f"{name}: expected at least 1 time step on axis {axis}, got shape {x.shape}."
        )
    return x


def lengths(value: ArrayLike, batch: Size, time: Size) -> Int[Array, " batch"]:
    """`value` as an int array (batch,), each within 1…time where the values are known.

    Under a trace a length cannot raise. There a length above `time` counts as `time`, and one
    below 1 as an empty sequence: outputs 0, final state = initial state, attention weights 0.
    """
    unknown = isinstance(value, jax.core.Tracer) or not getattr(value, "is_fully_addressable", True)
    given: Any = value if unknown else np.asarray(value)
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
    array = jnp.asarray(value)
    if jnp.iinfo(array.dtype).bits < 32:
        array = array.astype(jnp.int32)  # a longer time does not fit into a narrower dtype
    return jnp.clip(array, 0, jnp.asarray(time, array.dtype)).astype(jnp.int32)


def state(name: str, value: ArrayLike, shape: tuple[int, ...], layout: str) -> Array:
    """`value` as an array of exactly `shape`, floating."""
    array = _array(name, value)
    if array.shape != shape or not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"{name}: expected {layout} = {shape}, floating, got shape {array.shape} and dtype "
            f"{array.dtype}."
        )
    return array


def positive(name: str, value: int) -> int:
    """`value` where it is an int of at least 1; ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}.")
    return int(value)


MOST_GATES = 2**31 - 1
"""Rows of a cell's weights: XLA counts an axis in 32 bits, and ends the process beyond."""


def hidden_size(name: str, value: int) -> int:
    """`value` where it is a positive int whose four gates fit an axis; ValueError otherwise."""
    size = positive(name, value)
    if 4 * size > MOST_GATES:
        raise ValueError(f"{name}: expected at most {MOST_GATES // 4}, got {size}.")
    return size


def floating_dtype(name: str, value: DTypeLike | None) -> None:
    """Raise ValueError where `value` is neither None nor a floating dtype."""
    try:
        known = value is None or jnp.issubdtype(jnp.dtype(value), jnp.floating)
    except TypeError:
        known = False
    if not known:
        raise ValueError(f"{name}: expected a floating dtype or None, got {value!r}.")


def compute_dtype(dtype: DTypeLike | None, x: Array, parameter: Array) -> jnp.dtype:
    """`dtype`, or what x and the parameters promote to, as in Flax's own layers."""
    if dtype is not None:
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"dtype: expected a floating dtype or None, got {dtype}.")
        return jnp.dtype(dtype)
    with jax.numpy_dtype_promotion("standard"):  # a deliberate promotion, also in strict mode
        return jnp.promote_types(x.dtype, parameter.dtype)
