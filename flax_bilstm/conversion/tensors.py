"""PyTorch's tensors, and any other arrays, as NumPy arrays."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flax_bilstm.showing import shown
from flax_bilstm.torch_tensors import kind_and_way

NOT_NUMPYS = {
    name: np.dtype(getattr(jnp, name)) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")
}
"""PyTorch's dtypes that NumPy has only through ml_dtypes."""

ALIGNMENT = 64  # bytes, which JAX requires of memory that it takes over


def to_numpy(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every value as a NumPy array of the same dtype (bfloat16: ml_dtypes), copied only if needed.

    Raises:
        ValueError: a value is not an array or dense tensor of numbers, or a key is not a name.
    """
    if not isinstance(state_dict, Mapping):
        raise ValueError(
            "state_dict: expected a mapping from names to tensors, got "
            f"{type(state_dict).__name__}; pass module.state_dict()."
        )
    named = ((_name(key), value) for key, value in state_dict.items())
    return {name: array_of(name, value) for name, value in named}


def _name(key: Any) -> str:
    """A key as text: of a whole number too, but not of one with thousands of digits."""
    if isinstance(key, str):
        return key
    if isinstance(key, int) and key.bit_length() < 64:
        return str(key)
    raise ValueError(
        "state_dict: expected names of tensors, strings or whole numbers of at most 63 bits, got "
        f"{shown(key)} ({type(key).__name__}); pass module.state_dict()."
    )


def array_of(name: str, value: Any) -> np.ndarray:
    """One value; `name` is for the error.

    Raises:
        ValueError: the value is not an array or dense tensor of numbers whose memory can be read.
    """
    try:
        if type(value).__module__.partition(".")[0] == "torch" or hasattr(value, "detach"):
            return _from_torch(value)
        array = np.asarray(value)
    except Exception as error:  # from PyTorch, NumPy or JAX, of many classes
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".!")
        got = kind_and_way(value) or f"{type(value).__name__}: {shown(reason)}"
        raise ValueError(
            f"{shown(name)}: expected a dense tensor or array of numbers, got {got}."
        ) from error
    if array.dtype == object and isinstance(value, np.ndarray):
        raise ValueError(f"{shown(name)}: expected an array of numbers, got one of objects.")
    if array.dtype == object or isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{shown(name)}: expected a tensor or array, got {type(value).__name__}.")
    return array


def _from_torch(tensor: Any) -> np.ndarray:
    import torch  # a torch tensor exists, so torch is installed

    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    for name, dtype in NOT_NUMPYS.items():
        if tensor.dtype == getattr(torch, name, None):
            bits = torch.int16 if dtype.itemsize == 2 else torch.uint8
            return tensor.contiguous().view(bits).numpy().view(dtype)
    return tensor.numpy()


def copied(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A contiguous copy, cast, which JAX on a CPU takes over without a further one.

    A copy in any case: JAX may use NumPy's memory directly, and the array's can be PyTorch's, whose
    next step in place would then change JAX's array too.
    """
    size = array.size * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start : start + size].view(dtype).reshape(array.shape)
    copy[...] = array
    return copy


def overflows(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether a cast has made a finite number infinite."""
    return after.dtype != before.dtype and bool((np.isfinite(before) & ~np.isfinite(after)).any())


class Cast(Mapping[str, np.ndarray]):
    """Arrays of which the floating ones are cast, each when it is taken: never all at once.

    `stored` has them as they are.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], dtype: DTypeLike) -> None:
        self.stored, self.dtype = arrays, jnp.dtype(dtype)

    def __getitem__(self, name: str) -> np.ndarray:
        array = self.stored[name]
        floating = jnp.issubdtype(array.dtype, jnp.floating)
        return array.astype(self.dtype, copy=False) if floating else array

    def __contains__(self, name: object) -> bool:
        return name in self.stored  # Mapping's own would cast it

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)
