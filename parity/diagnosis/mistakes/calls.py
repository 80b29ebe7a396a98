"""Changed calls of PyTorch functions, while a mistake is in force.

Calls in the reference are changed whether a `torch.nn` layer or the code between layers makes them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

PRODUCTS = ("bmm", "matmul", "__matmul__", "mm", "einsum")


class Calls(TorchFunctionMode):
    """Changes the calls of some functions.

    Args:
        names: the names of the functions.
        change: (state, function, args, kwargs) → what the call returns.
        attention: whether the words speak of attention: ValueError without any softmax.

    Attributes:
        features: the number of features of the last matrix product.
        weighing: whether a softmax has been computed since that product.
        watching: whether calls are being changed.
    """

    def __init__(
        self, names: tuple[str, ...], change: Callable[..., Any], attention: bool = False
    ) -> None:
        super().__init__()
        self.names, self.change, self.attention, self.attends = names, change, attention, False
        self.features, self.weighing, self.watching = 1, False, True

    def __enter__(self) -> Self:
        self._fused = mock.patch.object(
            torch.nn.functional, "scaled_dot_product_attention", self._attention
        )
        self._fused.start()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._fused.stop()
        if self.attention and not self.attends and not any(error):
            raise ValueError("there is no attention")

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
        dropout_p: float = 0.0, is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        """torch's fused attention, as products and a softmax whose calls can be changed."""
        with nullcontext() if self.watching else _watching(self):
            scores = query @ key.mT / query.shape[-1] ** 0.5
            if is_causal:
                later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
                scores = scores.masked_fill(later, -torch.inf)
            if attn_mask is not None and attn_mask.dtype is torch.bool:
                scores = scores.masked_fill(~attn_mask, -torch.inf)
            elif attn_mask is not None:
                scores = scores + attn_mask
            return torch.softmax(scores, -1) @ value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        self.watching = False
        try:
            result = (
                self.change(self, func, args, kwargs)
                if name in self.names
                else func(*args, **kwargs)
            )
        finally:
            self.watching = True
        if name in PRODUCTS:
            operand = args[0] if isinstance(args[0], Tensor) else args[1]
            self.features, self.weighing = operand.shape[-1], False
        if name == "softmax":
            self.weighing = self.attends = True
        return result


@contextmanager
def _watching(calls: Calls) -> Iterator[None]:
    """Also change the calls within a torch function that is not itself changed."""
    TorchFunctionMode.__enter__(calls)
    calls.watching = True
    try:
        yield
    finally:
        calls.watching = False
        TorchFunctionMode.__exit__(calls, None, None, None)


Mistakes = Iterator[tuple[str, Calls]]
"""Pairs of words and changed calls."""
