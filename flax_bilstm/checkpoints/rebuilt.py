"""The plain values for the functions that PyTorch's and NumPy's pickles name.

Tensors become NumPy arrays that share the memory of the file. Anything that is not in `KNOWN`
becomes a `StandIn`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

import jax.numpy as jnp
import numpy as np

from flax_bilstm.checkpoints.pickle_machine import Limits
from flax_bilstm.checkpoints.shapes import count_of
from flax_bilstm.checkpoints.shared_memory import ALWAYS_ALLOWED, LARGEST_SHARING
from flax_bilstm.checkpoints.stand_ins import DamagedError, Global, StandIn, Unfinished
from flax_bilstm.showing import shown

DTYPES = {
    "Double": np.dtype(np.float64),
    "Float": np.dtype(np.float32),
    "Half": np.dtype(np.float16),
    "BFloat16": np.dtype(jnp.bfloat16),
    "Long": np.dtype(np.int64),
    "Int": np.dtype(np.int32),
    "Short": np.dtype(np.int16),
    "Char": np.dtype(np.int8),
    "Byte": np.dtype(np.uint8),
    "Bool": np.dtype(np.bool_),
    "ComplexFloat": np.dtype(np.complex64),
    "ComplexDouble": np.dtype(np.complex128),
}
"""PyTorch's storage class → the dtype of its elements."""

STORAGES = {f"{module}.{name}Storage": dtype for name, dtype in DTYPES.items()
            for module in ("torch", "torch.cuda")}  # fmt: skip
UNTYPED = ("torch.storage.UntypedStorage", "torch.UntypedStorage", "torch.cuda.UntypedStorage")
NEW_DTYPES = {
    f"torch.{name}": np.dtype(getattr(jnp, name))
    for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")
} | {f"torch.{dtype.name}": dtype for dtype in DTYPES.values()}
"""The dtypes without a storage class."""


LARGEST_RATIO = 8
"""Most bytes of memory for each byte in the file, for what is not a view of a storage."""


class Storage(NamedTuple):
    """Bytes that tensors are views of, and their elements' dtype (None: given by the tensor)."""

    data: Any
    dtype: np.dtype | None


class Budget:
    """Limits the memory that a file's values take, and the bytes of all views of its storages.

    `limits`: those of its pickles.
    """

    def __init__(self, file_size: int, limits: Limits):
        self.file_size, self.limits = file_size, limits
        self.left = LARGEST_RATIO * file_size + ALWAYS_ALLOWED
        self.views_left = LARGEST_SHARING * file_size + ALWAYS_ALLOWED

    def take(self, count: int) -> None:
        """Subtract `count` bytes of memory; DamagedError if fewer are left."""
        self.left -= count
        if self.left < 0:
            self._exceeded(LARGEST_RATIO)

    def view(self, count: int) -> None:
        """Subtract the `count` bytes of a tensor that shares a storage's memory."""
        self.views_left -= count
        if self.views_left < 0:
            self._exceeded(LARGEST_SHARING)

    def _exceeded(self, ratio: int) -> NoReturn:
        raise DamagedError(
            f"its tensors take more than {ratio} times the file's own {self.file_size:,} bytes"
        )


def call(name: str, arguments: tuple[Any, ...], budget: Budget) -> Any:
    """The value of a known function, or a StandIn; see `KNOWN`."""
    known = KNOWN.get(name)
    if known is None:
        return StandIn(OTHER_TENSORS.get(name, name), arguments)
    return known(budget, *arguments)


def tensor(
    storage: Any, offset: Any, size: Any, stride: Any, dtype: np.dtype, budget: Budget
) -> np.ndarray:
    """The array of a storage's elements, without copying.

    Raises:
        DamagedError: it has elements outside its storage.
    """
    count = count_of(size, stride, [offset])
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    available = len(storage.data) // dtype.itemsize
    if count == 0:
        if max(size) > 2**62:
            raise DamagedError("a tensor's sizes overflow")
        return np.zeros(size, dtype)
    if last >= available:
        raise DamagedError(
            f"a tensor of shape {shown(str(tuple(size)))} reaches element {shown(last)} of a "
            f"storage of {available}"
        )
    budget.view(count * dtype.itemsize)
    budget.take(256)
    steps = [step * dtype.itemsize if length > 1 else 0
             for length, step in zip(size, stride, strict=True)]  # fmt: skip
    return np.ndarray(size, dtype, storage.data, offset * dtype.itemsize, steps)


def _typed(budget: Budget, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
    metadata = rest[2] if len(rest) > 2 else None  # a view's pending conjugation or negation
    if not isinstance(storage, Storage) or storage.dtype is None or metadata:
        return StandIn("a tensor of an unknown dtype")
    return tensor(storage, offset, size, stride, storage.dtype, budget)


def _untyped(
    budget: Budget, storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any,
    dtype: Any, metadata: Any = None,
) -> Any:  # fmt: skip
    known = NEW_DTYPES.get(dtype.name) if isinstance(dtype, Global) else None
    if not isinstance(storage, Storage) or known is None or metadata:
        name = dtype.name if isinstance(dtype, Global) else "none"
        return StandIn(f"a tensor of dtype {name}")
    return tensor(storage, offset, size, stride, known, budget)


def _subclass(budget: Budget, function: Any, cls: Any, arguments: Any, state: Any) -> Any:
    value = call(function.name, arguments, budget)
    return value if isinstance(value, np.ndarray) else StandIn(cls.name, arguments)


def _mapping(budget: Budget, *arguments: Any) -> Any:
    items = arguments[-1] if arguments and not isinstance(arguments[-1], Global) else ()
    if isinstance(items, dict):
        return items
    budget.take(128 * len(items))
    key_of = budget.limits.key
    return {key_of(key): value for key, value in items if isinstance(key, (str, int))}


def _encoded(budget: Budget, text: str, encoding: str) -> Any:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        return StandIn("_codecs.encode")
    budget.take(len(text))
    return text.encode(encoding)


_PLAIN_DTYPE = re.compile(r"[<>=|]?([biufc]\d{1,2}|[?bBhHiIlLqQefdFD])")


def _dtype(budget: Budget, spec: Any, *rest: Any) -> Any:
    if not isinstance(spec, str) or not _PLAIN_DTYPE.fullmatch(spec):
        return StandIn("numpy.dtype", (spec,))
    made = np.dtype(spec)
    return Unfinished("numpy.dtype", lambda state: made.newbyteorder(state[1]))


def _scalar(budget: Budget, dtype: Any, data: Any = None) -> Any:
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes):
        return StandIn("a NumPy scalar")
    return np.frombuffer(data, dtype, 1)[0]


def _numpy_array(budget: Budget, *rest: Any) -> Any:
    def finish(state: Any) -> Any:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, np.dtype) or not isinstance(data, bytes):
            return StandIn("a NumPy array of objects")
        if count_of(shape) * dtype.itemsize != len(data):
            raise DamagedError("a NumPy array's shape does not fit its bytes")
        budget.take(len(data) + 256)
        return np.ndarray(shape, dtype, data, order="F" if fortran else "C")

    return Unfinished("a NumPy array", finish)


def _numpy_buffer(budget: Budget, data: Any, dtype: Any, shape: Any, order: Any, *rest: Any) -> Any:
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes) or order not in ("C", "F"):
        return StandIn("a NumPy array of another kind")
    count_of(shape)
    budget.take(256)
    return np.ndarray(shape, dtype, data, order=order)


def _first(budget: Budget, *arguments: Any) -> Any:
    return arguments[0] if arguments else []


OTHER_TENSORS = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantized tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a meta tensor, without numbers",
    "torch._utils._rebuild_wrapper_subclass": "a tensor of a class of its own",
}
"""Tensors that cannot be arrays, described in words."""

Function = Callable[..., Any]
KNOWN: Mapping[str, Function] = {
    "torch._utils._rebuild_tensor": _typed,
    "torch._utils._rebuild_tensor_v2": _typed,
    "torch._utils._rebuild_tensor_v3": _untyped,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.Size": _first,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "collections.Counter": _mapping,
    "_codecs.encode": _encoded,
    "numpy.dtype": _dtype,
    **{
        f"numpy.{core}.multiarray.{name}": function
        for core in ("core", "_core")
        for name, function in {"scalar": _scalar, "_reconstruct": _numpy_array}.items()
    },
    "numpy._core.numeric._frombuffer": _numpy_buffer,
    "numpy.core.numeric._frombuffer": _numpy_buffer,
    **{
        f"{module}.{name}": _first
        for module in ("builtins", "__builtin__")
        for name in ("set", "frozenset", "list", "tuple", "dict", "bytearray")
    },
}
"""The function that a pickle names → what makes a plain value from its arguments."""
