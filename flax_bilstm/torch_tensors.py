"""What a PyTorch tensor is that NumPy cannot read, and what makes an array of it."""

from collections.abc import Callable
from typing import Any

_KINDS: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (lambda t: "Uninitialized" in type(t).__name__,
     "a lazy parameter without numbers; run its module once before"),
    (lambda t: "Fake" in type(t).__name__, "a tensor without numbers; pass one with numbers"),
    (lambda t: "DTensor" in type(t).__name__, "a distributed tensor; pass .full_tensor()"),
    (lambda t: t.is_nested, "a nested tensor; pass torch.nested.to_padded_tensor(it, 0.0)"),
    (lambda t: t.is_meta, "a tensor without numbers (device meta); pass one with numbers"),
    (lambda t: t.is_quantized, "a quantized tensor; pass .dequantize()"),
    (lambda t: str(t.layout) != "torch.strided", "a tensor that is not dense; pass .to_dense()"),
    (lambda t: t.is_cuda, "a tensor on a GPU; pass .cpu()"),
    (lambda t: "float8" in str(t.dtype) or "bfloat16" in str(t.dtype),
     "a tensor of a dtype that NumPy lacks; pass .float()"),
    (lambda t: t.requires_grad, "a tensor that requires a gradient; pass .detach().numpy()"),
    (lambda t: t.is_conj(), "a conjugate view; pass .resolve_conj()"),
    (lambda t: t.is_neg(), "a negative view; pass .resolve_neg()"),
)  # fmt: skip
"""Test of a tensor → what it is; what helps. The first that applies."""


def kind_and_way(value: Any) -> str | None:
    """What kind of tensor `value` is, and what to pass instead; None if that is not known."""
    if type(value).__module__.partition(".")[0] != "torch":
        return None
    try:
        return next((words for applies, words in _KINDS if applies(value)), None)
    except Exception:  # from PyTorch, which cannot say it of this class
        return None
