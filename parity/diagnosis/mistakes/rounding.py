"""Lower precision, imitated by rounding the reference's numbers."""

from typing import Any

import torch
from torch import Tensor

SIGNIFICANT_BITS = {"bfloat16": 8, "TF32, or float16": 11, "float32": 24}
"""Bits of a significand, the leading one included."""


def rounded(values: Tensor, bits: int) -> Tensor:
    """Rounded to `bits` significant bits, ties to even; the derivative is the identity's."""
    return values + (_rounded(values.detach(), bits) - values.detach())


def _rounded(values: Tensor, bits: int) -> Tensor:
    significand, exponent = torch.frexp(values)
    return torch.ldexp(torch.ldexp(significand, torch.tensor(bits)).round(), exponent - bits)


class _RoundedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, bits: int) -> Tensor:
        ctx.bits = bits
        return values.clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return _rounded(cotangent, ctx.bits), None


def with_rounded_gradient(values: Tensor, bits: int) -> Tensor:
    """The unchanged values, whose gradient is rounded."""
    return _RoundedGradient.apply(values, bits)
