"""Runs in float64 in which all is float64, also what a model makes or converts itself.

Where code says float32, it means the dtype of its numbers: `torch.zeros` for an initial state,
`mask.float()`, `x.astype(jnp.float32)` in a norm, `jax.nn.dot_product_attention` in its softmax.
So float32 is float64 there, on both sides, unless the model is in float64 itself.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import jax
import numpy as np
import torch
from jax._src import dtypes
from jax.experimental.xla_metadata import set_xla_metadata
from torch.overrides import TorchFunctionMode

from parity.tolerances import TRUTH

_WIDE = ((torch.float32, torch.float64), (torch.FloatTensor, torch.DoubleTensor))


def widens(parameters: Mapping[str, Any]) -> bool:
    """Whether float32 is float64 in a float64 run of a model with these parameters."""
    return all(array.dtype != np.float64 for array in parameters.values())


@contextmanager
def torch_in(dtype: str, wide: bool) -> Iterator[None]:
    """Run PyTorch's code in this dtype; in float64 with no float32 if it is to be `wide`."""
    if dtype != TRUTH or not wide:
        yield
        return
    former = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(torch, "FloatTensor", torch.DoubleTensor), _Wide():
            yield
    finally:
        torch.set_default_dtype(former)


class _Wide(TorchFunctionMode):
    """Replaces float32 where a function is told it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        func = torch.Tensor.double if func is torch.Tensor.float else func
        named = {name: _widened(arg) for name, arg in (kwargs or {}).items()}
        return func(*map(_widened, args), **named)


def _widened(arg: Any) -> Any:
    return next((wide for narrow, wide in _WIDE if arg is narrow), arg)


@contextmanager
def flax_in(dtype: str, wide: bool) -> Iterator[None]:
    """Trace JAX's code in this dtype; in float64 with no float32 if it is to be `wide`.

    x64 is on for float64, which needs it, and off for other dtypes, as JAX's users run it.
    """
    with ExitStack() as undo:
        undo.enter_context(jax.enable_x64(dtype == TRUTH))
        if dtype == TRUTH and wide:
            undo.enter_context(mock.patch.object(dtypes, _EXPLICIT.__name__, _explicit))
            undo.enter_context(set_xla_metadata(parity="64"))  # part of the key of JAX's caches
        yield


_EXPLICIT: Any = dtypes.check_and_canonicalize_user_dtype


def _explicit(dtype: Any, *given: Any) -> Any:
    """The dtype that JAX takes for one that code asks for."""
    found = _EXPLICIT(dtype, *given)
    return np.dtype(np.float64) if found == np.float32 else found
