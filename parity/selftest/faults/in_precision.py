"""Faults that show only in float32, or as non-finite numbers."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from parity.selftest import pieces, planting
from parity.selftest.fault import UNKNOWN, Fault, cell


def _rounded_gradient(real: Any, *arguments: Any) -> Any:
    outputs, final = real(*arguments)
    return _bfloat16_cotangent(outputs), final


@jax.custom_vjp
def _bfloat16_cotangent(y: Any) -> Any:
    return y


_bfloat16_cotangent.defvjp(
    lambda y: (y, None),
    lambda _, cotangent: (pieces.only_float32(pieces.bfloat16)(cotangent),),
)

_TF32 = pieces.only_float32(pieces.tf32)
_BFLOAT16 = pieces.only_float32(pieces.bfloat16)

PRECISION = (
    Fault("recurrence's products in bfloat16", cell("forward", "input_gate"), "float32",
             "the matrix products are computed in bfloat16", planting.product(_BFLOAT16)),
    Fault("recurrence's products in TF32", cell("forward", "input_gate"), "float32",
             "the matrix products are computed in TF32, or float16",
             planting.product(_TF32)),
    Fault("cell state kept in bfloat16", cell("forward", "cell"), "float32",
             "the cell state is rounded to bfloat16",
             planting.loop(pieces.cell(combine=lambda i, f, g, c: _BFLOAT16(f * c + i * g)))),
    Fault("softmax in bfloat16", "fc.input", "float32", "the softmax is computed in bfloat16",
             planting.attention(pieces.attend(weigh=lambda s: _BFLOAT16(
                 jax.nn.softmax(_BFLOAT16(s), axis=-1))))),
    Fault("head in TF32", "fc", "float32", "the layer's products are computed in TF32, or float16",
             planting.calling(nnx.Linear, lambda call, module, x: (
                 _TF32(x) @ _TF32(module.kernel[...]) + module.bias[...][None]))),
    Fault("gradients handed back in bfloat16", cell("reverse", "outputs"), "float32",
             "the gradient is rounded to bfloat16",
             planting.implementation(_rounded_gradient, "reverse")),
)  # fmt: skip


def _guarded_root(real: Any, *arguments: Any) -> Any:
    outputs, final = real(*arguments)
    return jnp.where(outputs < 2, outputs, jnp.sqrt(outputs - outputs)), final


NOT_FINITE = (
    Fault("tanh as (exp 2z − 1) / (exp 2z + 1)", cell("forward", "cell_gate"), "not finite",
             UNKNOWN, planting.loop(pieces.cell(candidate=pieces.exponential_tanh)), case="large"),
    Fault("derivative of σ by exp(−z), which overflows", cell("reverse", "input_gate"),
             "not finite", UNKNOWN, planting.loop(pieces.cell(sigmoid=pieces.exponential_sigmoid)),
             case="large"),
    Fault("gradient of a root behind a where", cell("reverse", "outputs"), "not finite", UNKNOWN,
             planting.implementation(_guarded_root, "reverse")),
)  # fmt: skip
