"""Runs in float64 in which all is float64, also what a model makes or converts itself.

Where code says float32, it means the dtype of its numbers: `torch.zeros` for an initial state,
`mask.float()`, `x.astype(jnp.float32)` in a norm, `jax.nn.dot_product_attention` in its softmax.
So float32 is float64 there, on both sides, unless the model is in float64 itself; bfloat16 stays
what it is. The functions that PyTorch computes to fewer digits than float64 has are exact there.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from jax._src import dtypes
from jax.experimental.xla_metadata import set_xla_metadata
from torch.overrides import TorchFunctionMode

from parity.tolerances import TRUTH

_WIDE = (
    (torch.float32, torch.float64),
    (torch.complex64, torch.complex128),
    (torch.FloatTensor, torch.DoubleTensor),
)
THRESHOLD, LINEAR = 20.0, 50.0
"""Above its default threshold, PyTorch's softplus(x) is x; in every dtype it is above `LINEAR`."""


def widens(parameters: Mapping[str, Any]) -> bool:
    """Whether float32 is float64 in a float64 run of a model with these parameters."""
    return all(array.dtype != np.float64 for array in parameters.values())


@contextmanager
def torch_in(dtype: str, wide: bool) -> Iterator[None]:
    """Run PyTorch's code in this dtype; in float64 with no float32 if it is to be `wide`.

    Attention has no fast path, which without gradients returns zeros for what is padded.
    """
    former, fast = torch.get_default_dtype(), torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        if dtype != TRUTH or not wide:
            yield
            return
        torch.set_default_dtype(torch.float64)
        with (
            mock.patch.object(torch, "FloatTensor", torch.DoubleTensor),
            mock.patch.object(torch, "finfo", partial(_of_float32, torch.finfo, torch.float32)),
            _Wide(),
        ):
            yield
    finally:
        torch.set_default_dtype(former)
        torch.backends.mha.set_fastpath_enabled(fast)


class _Wide(TorchFunctionMode):
    """Replaces float32 where a function is told it, and functions that are not exact."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        func = _EXACT.get(func, func)
        named = {name: _widened(arg) for name, arg in (kwargs or {}).items()}
        return func(*map(_widened, args), **named)


def _widened(arg: Any) -> Any:
    return next((wide for narrow, wide in _WIDE if arg is narrow), arg)


def _of_float32(finfo: Any, narrow: Any, type: Any = None) -> Any:
    """Facts about a dtype, such as its ε: a float64 run has those of float32."""
    kind = narrow if type is None else type
    return finfo(narrow) if kind in (torch.float64, np.float64) else finfo(kind)


class _Facts:
    """Facts about float32 that JAX gives as float32, in float64: code may compute with them."""

    def __init__(self, facts: Any) -> None:
        self._facts = facts

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._facts, name)
        return np.float64(found) if isinstance(found, np.float32) else found


def _softplus(input: Any, beta: float = 1, threshold: float = THRESHOLD) -> Any:
    return F.softplus(input, beta, LINEAR if threshold == THRESHOLD else threshold)


def _hardsigmoid(x: Any, inplace: bool = False) -> Any:
    """PyTorch's own has 1/6 in float32 in its gradient."""
    found = F.relu6(x + 3) / 6
    return x.copy_(found) if inplace else found


def _rms_norm(x: Any, shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """By default, ε is that of the dtype."""
    return F.rms_norm(x, shape, weight, torch.finfo(x.dtype).eps if eps is None else eps)


_EXACT: dict[Any, Any] = {
    torch.Tensor.float: torch.Tensor.double,
    F.softplus: _softplus,
    F.hardsigmoid: _hardsigmoid,
    F.rms_norm: _rms_norm,
}


@contextmanager
def flax_in(dtype: str, wide: bool) -> Iterator[None]:
    """Trace JAX's code in this dtype; in float64 with no float32 if it is to be `wide`.

    x64 is on for float64, which needs it, and off for other dtypes, as JAX's users run it. A NumPy
    array that the code has as a constant is copied: JAX would keep the dtype that it has in one of
    the two modes for the other one, too.
    """
    with ExitStack() as undo:
        undo.enter_context(jax.enable_x64(dtype == TRUTH))
        if hasattr(dtypes, _CONSTANT):
            copied = partial(_copied, getattr(dtypes, _CONSTANT))
            undo.enter_context(mock.patch.object(dtypes, _CONSTANT, copied))
        if dtype == TRUTH and wide and hasattr(dtypes, _EXPLICIT):
            for name in filter(partial(hasattr, dtypes), (_EXPLICIT, _INEXACT)):
                taken = partial(_taken, getattr(dtypes, name))
                undo.enter_context(mock.patch.object(dtypes, name, taken))
            facts = partial(_of_float32, jnp.finfo, jnp.float32)
            undo.enter_context(mock.patch.object(jnp, "finfo", lambda dtype: _Facts(facts(dtype))))
            undo.enter_context(set_xla_metadata(parity="64"))  # part of the key of JAX's caches
        yield


_CONSTANT, _EXPLICIT = "canonicalize_value", "check_and_canonicalize_user_dtype"
_INEXACT = "to_inexact_dtype"  # of a quotient of integers


def _copied(own: Any, value: Any) -> Any:
    """What JAX takes for a value."""
    return own(value.copy() if type(value) is np.ndarray else value)


def _taken(own: Any, dtype: Any, *given: Any, **options: Any) -> Any:
    """The dtype that JAX takes for one that code asks for, or for the quotients of one."""
    found = own(dtype, *given, **options)
    wide = {np.dtype(np.float32): np.float64, np.dtype(np.complex64): np.complex128}
    return np.dtype(wide[found]) if found in wide else found
