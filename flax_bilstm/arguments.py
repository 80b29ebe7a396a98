"""Checks of the caller's arguments: every error says what was expected and what was passed.

Shapes and dtypes are always known, so they are checked under `jax.jit` too. Values are checked only
where they are known, outside a trace.
"""

import math
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array

from flax_bilstm.torch_tensors import kind_and_way

LARGEST_AXIS = 2**31 - 1
"""XLA stores an axis' size in 32 bits, and aborts the process if it is larger."""

MOST_LAYERS = 10_000
"""Each layer is several Python objects: a thousand times more would fill the memory, slowly."""

MOST_PARTS = 2**20
"""Parts of a batch: no machine has so many devices."""

MOST_NUMBERS = 2**53
"""XLA counts bytes in 63 bits and aborts the process beyond them; drawing numbers takes several
copies. No computer addresses 2⁵⁶ bytes, and numbers have up to 8.
"""


def quoted(value: Any) -> str:
    """`value` for a message: numbers, strings, dtypes as they are, anything else by its class."""
    if isinstance(value, type):
        return value.__name__
    plain = value is None or isinstance(value, (float, complex, np.dtype))
    short = isinstance(value, (str, bytes)) and len(value) <= 100
    small = isinstance(value, int) and value.bit_length() <= 64
    return repr(value) if plain or short or small else type(value).__name__


def array(name: str, value: Any) -> Array:
    """`value` as a JAX array; TypeError if it cannot be one."""
    if type(value).__name__ == "PackedSequence":
        raise TypeError(
            f"{name}: expected a padded array, got PackedSequence; unpack it with "
            "torch.nn.utils.rnn.pad_packed_sequence, and pass its lengths as lengths=."
        )
    try:
        converted = jnp.asarray(value)
    except Exception as error:  # from JAX, NumPy or the tensor's library
        got = kind_and_way(value) or f"{quoted(value)}; pass a NumPy or JAX array"
        raise TypeError(f"{name}: expected an array of numbers, got {got}.") from error
    if not isinstance(converted, jax.core.Tracer) and converted.is_deleted():
        raise ValueError(
            f"{name}: expected an array, got one that was deleted; it was donated to an earlier "
            "call (donate_argnums)."
        )
    return converted


def pair(name: str, value: Any, parts: str) -> tuple[Any, Any]:
    """`value` if it is a tuple or list of two arrays; `parts` is for instance "(h_0, c_0)"."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"{name}: expected the pair {parts}, got {quoted(value)}.")
    if any(part is None for part in value):
        raise ValueError(
            f"{name}: expected the pair {parts} of arrays, got None for one of them; pass zeros "
            "for the one that you do not have."
        )
    return value[0], value[1]


def sequence(
    name: str, x: ArrayLike, layouts: tuple[str, ...], width: int, time_axis: int
) -> Array:
    """`x` as a JAX array: floating, with the rank of one of `layouts`, `width` features, time ≥ 1.

    `time_axis` is the time axis of a batched x. Raises ValueError otherwise.
    """
    x = array(name, x)
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


def state(name: str, value: ArrayLike, shape: tuple[int, ...], layout: str) -> Array:
    """`value` as an array of exactly `shape`, floating."""
    found = array(name, value)
    if found.shape != shape or not jnp.issubdtype(found.dtype, jnp.floating):
        raise ValueError(
            f"{name}: expected {layout} = {shape}, floating, got shape {found.shape} and dtype "
            f"{found.dtype}."
        )
    return found


def positive(name: str, value: int, most: int = LARGEST_AXIS) -> int:
    """`value` if it is an int from 1 to `most`; ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name}: expected an integer of at least 1, got {quoted(value)}.")
    if value > most:
        raise ValueError(f"{name}: expected at most {most}, got {quoted(value)}.")
    return int(value)


def hidden_size(name: str, value: int) -> int:
    """`value` if it is a positive int whose four gates fit an axis; ValueError otherwise."""
    return positive(name, value, LARGEST_AXIS // 4)


def projection_size(value: int, hidden_size: int) -> int:
    """`value` if it is an int from 0 to less than hidden_size; ValueError otherwise."""
    known = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not known or not 0 <= value < hidden_size:
        raise ValueError(
            f"proj_size: expected 0 (none) or less than hidden_size = {hidden_size}, "
            f"got {quoted(value)}."
        )
    return int(value)


def addressable(sizes: Mapping[str, Any], *shapes: tuple[int, ...]) -> None:
    """Raise ValueError if arrays of these shapes, which follow from `sizes`, cannot exist."""
    largest = max(shapes, key=math.prod)
    if math.prod(largest) > MOST_NUMBERS:
        given = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        raise ValueError(
            f"{', '.join(sizes)}: expected sizes whose arrays have at most {MOST_NUMBERS} numbers "
            f"each, got {given}, which make one of shape {largest}; choose smaller ones."
        )


def flag(name: str, value: Any) -> bool:
    """`value` if it is True or False (or 1 or 0); ValueError otherwise."""
    if not isinstance(value, (bool, int, np.bool_)) or value not in (0, 1):
        raise ValueError(f"{name}: expected True or False, got {quoted(value)}.")
    return bool(value)


def probability(name: str, value: Any) -> float:
    """`value` if it is a number from 0 to 1; ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise ValueError(f"{name}: expected a probability from 0 to 1, got {quoted(value)}.")
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a probability from 0 to 1, got {quoted(value)}.")
    return float(value)


def one_of(name: str, value: Any, options: Sequence[str]) -> str:
    """`value` if it is one of the strings; ValueError otherwise."""
    if not isinstance(value, str) or value not in options:
        known = ", ".join(f'"{each}"' for each in options)
        raise ValueError(f"{name}: expected one of {known}, got {quoted(value)}.")
    return value


def module(name: str, value: Any) -> nnx.Module:
    """`value` if it is an `nnx.Module`; TypeError otherwise."""
    if not isinstance(value, nnx.Module):
        raise TypeError(f"{name}: expected an nnx.Module, got {quoted(value)}.")
    return value


def of_kind(name: str, value: Any, kind: type | tuple[type, ...], words: str) -> Any:
    """`value` if it is of the kind, which `words` names; TypeError otherwise."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected {words}, got {quoted(value)}.")
    return value


def leaves(name: str, tree: Any) -> list[Any]:
    """The leaves of a tree of arrays and numbers; TypeError or ValueError if there are others."""
    try:
        found = jax.tree.leaves(tree)
        for leaf in found:
            jnp.result_type(leaf)
    except Exception as error:  # from JAX and NumPy
        raise TypeError(
            f"{name}: expected a tree of arrays, got {quoted(tree)}, in which there are others, or "
            "keys that cannot be sorted."
        ) from error
    for leaf in found:
        if isinstance(leaf, (jax.Array, int)):
            array(name, leaf)  # not a deleted one, not too large a number
        else:
            of_kind(name, leaf, (np.ndarray, np.generic, int, float), "a tree of arrays")
    return found


def strings(name: str, value: Any) -> Collection[str]:
    """`value` if it is a collection of strings, and not one string; TypeError otherwise."""
    if isinstance(value, str):
        raise TypeError(
            f"{name}: expected a list of strings, got {quoted(value)}; pass [{quoted(value)}]."
        )
    listed = isinstance(value, (list, tuple, set, frozenset))
    if not listed or not all(isinstance(each, str) for each in value):
        raise TypeError(f"{name}: expected a list of strings, got {quoted(value)}.")
    return value


def string_or_none(name: str, value: Any) -> str | None:
    """`value` if it is a string or None; TypeError otherwise."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name}: expected a string or None, got {quoted(value)}.")
    return value


def path(name: str, value: Any) -> str | os.PathLike[str]:
    """`value` if it is the path of a file or folder; TypeError or ValueError otherwise."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name}: expected the path of a file or folder, got {quoted(value)}.")
    text = os.fspath(value)
    if not text:
        raise ValueError(f"{name}: expected the path of a file or folder, got an empty one.")
    if not isinstance(text, str) or "\0" in text:
        raise ValueError(
            f"{name}: expected the path of a file or folder, a string without the character NUL, "
            f"got {quoted(text)}."
        )
    return value


def rngs(name: str, value: Any) -> nnx.Rngs:
    """`value` if it is an `nnx.Rngs`; TypeError otherwise."""
    if not isinstance(value, nnx.Rngs):
        raise TypeError(f"{name}: expected nnx.Rngs, such as nnx.Rngs(0), got {quoted(value)}.")
    return value


def learning_rate(name: str, value: Any) -> None:
    """Raise ValueError if `value` is neither a finite number of at least 0 nor a schedule."""
    real = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if isinstance(value, jax.Array):
        real = value.shape == () and jnp.issubdtype(value.dtype, np.number)
    if not callable(value) and not (real and 0 <= value < math.inf):
        raise ValueError(
            f"{name}: expected a finite number of at least 0 or an optax schedule, got "
            f"{quoted(value)}."
        )


def floating_dtype(name: str, value: DTypeLike | None) -> None:
    """Raise ValueError if `value` is neither None nor a floating dtype."""
    try:
        known = value is None or (
            isinstance(value, (str, type, np.dtype))
            and jnp.issubdtype(jnp.dtype(value), jnp.floating)
        )
    except TypeError:
        known = False
    if not known:
        raise ValueError(f"{name}: expected a floating dtype or None, got {quoted(value)}.")


def compute_dtype(dtype: DTypeLike | None, x: Array, parameter: Array) -> jnp.dtype:
    """`dtype`, or the dtype that x and the parameters promote to, as in Flax's layers."""
    if dtype is not None:
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"dtype: expected a floating dtype or None, got {dtype}.")
        return jnp.dtype(dtype)
    with jax.numpy_dtype_promotion("standard"):  # intended, also in strict mode
        return jnp.promote_types(x.dtype, parameter.dtype)
