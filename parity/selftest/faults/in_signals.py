"""Faults in a convolution with BatchNorm, and in attention of several heads."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from parity.selftest import pieces, planting
from parity.selftest.fault import UNKNOWN, Fault
from parity.selftest.faults.in_training import fed
from parity.selftest.networks.signals import Convolution, Heads
from parity.sides.optimizers import SGD

method = planting.method


def _norm(eps: float = 1e-5, **held: float) -> planting.Plant:
    """BatchNorm in evaluation with another epsilon, or statistics or weights set to a number."""

    def change(call: Any, module: Any, x: Any) -> Any:
        names = ("mean", "var", "scale", "bias")
        mean, var, scale, bias = (
            held.get(name, getattr(module, name)[...][None, None]) for name in names
        )
        return (x - mean) / jnp.sqrt(var + eps) * scale + bias

    return planting.calling(nnx.BatchNorm, change)


def _own_statistics(call: Any, module: Any, x: Any) -> Any:
    mean, var = x.mean((0, 1), keepdims=True), x.var((0, 1), keepdims=True)
    scale, bias = (a[...][None, None] for a in (module.scale, module.bias))
    return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias


def _turned_kernel(call: Any, module: Any, x: Any) -> Any:
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
    kernel = module.kernel[...][::-1]
    steps = x.shape[1]
    return sum(padded[:, k : k + steps] @ kernel[k] for k in range(3)) + module.bias[...]


CONVOLUTION = (
    Fault("BatchNorm's epsilon of 1e-6", "head.input", "forward",
          "the epsilon is 1e-06, Flax's default", _norm(1e-6),
          case="convolution"),
    Fault("BatchNorm's statistics are its defaults", "head.input", "forward", UNKNOWN,
          _norm(mean=0.0, var=1.0), case="convolution"),
    Fault("BatchNorm's scale is missing", "head.input", "forward", "the norm's scale is missing",
          _norm(scale=1.0), case="convolution"),
    Fault("BatchNorm by the batch's own statistics", "head.input", "forward",
          "the batch's own statistics are used, as in training",
          planting.calling(nnx.BatchNorm, _own_statistics), case="convolution"),
    Fault("the convolution's kernel turned in time", "head.input", "forward", UNKNOWN,
          planting.calling(nnx.Conv, _turned_kernel), case="convolution"),
    Fault("the convolution's bias is missing", "head.input", "forward", UNKNOWN,
          planting.calling(nnx.Conv, lambda call, module, x: call(x) - module.bias[...]),
          case="convolution"),
    Fault("padding by the edge, not by zeros", "head.input", "forward", UNKNOWN,
          planting.calling(nnx.Conv, lambda call, module, x: call(
              jnp.pad(x, ((0, 0), (1, 1), (0, 0)), mode="edge"))[:, 1:-1]), case="convolution"),
    Fault("leaky ReLU for ReLU", "head.input", "forward", "the activation is leaky_relu",
          method(Convolution, "activate", lambda real, model, z: nnx.leaky_relu(z)),
          case="convolution"),
    Fault("mean pooling for the largest", "head.input", "forward", UNKNOWN,
          method(Convolution, "pool", lambda real, model, y: nnx.avg_pool(y, (2,), (2,))),
          case="convolution"),
    Fault("flattened time by time", "head.input", "forward", UNKNOWN,
          method(Convolution, "flatten", lambda real, model, y: y.reshape(len(y), -1)),
          case="convolution"),
    Fault("running_mean is zero", "norm.running_mean", "parameters", "it is zero",
          case="convolution",
          hold=lambda held: {n: 0 * a if "running_mean" in n else a for n, a in held.items()}),
    Fault("gradient of the convolution halved", "conv.bias", "gradients",
          "it is 0.5 times what it should be",
          planting.calling(nnx.Conv, lambda call, module, x: 0.5 * call(x)
                                        + 0.5 * jax.lax.stop_gradient(call(x))),
          case="convolution"),
    Fault("gradients clipped by value in the convolution", "conv.weight", "training", UNKNOWN,
          case="convolution", optimizer=fed(SGD, optax.chain(optax.clip(1e-3), optax.sgd(0.01)))),
)  # fmt: skip


def _attend(change: Any) -> planting.Plant:
    """`change(scores, value)` → what the heads give, in place of the scaled softmax's mean."""

    def attend(query: Any, key: Any, value: Any) -> Any:
        scores = jnp.einsum("...qhd,...khd->...hqk", query, key)
        return change(scores, value)

    return planting.patched(Heads, "attend", lambda real: staticmethod(attend))


def _mean(weights: Any, value: Any) -> Any:
    return jnp.einsum("...hqk,...khd->...qhd", weights, value)


_SCALE = 2**-0.5

HEADS = (
    Fault("scores not scaled", "attention", "forward", "scores are √d times what they should be",
          _attend(lambda s, v: _mean(jax.nn.softmax(s), v)), case="heads"),
    Fault("scores scaled by the model's width", "attention", "forward",
          "scores are 1/√d of what they should be, d the features of the product",
          _attend(lambda s, v: _mean(jax.nn.softmax(s / 2), v)), case="heads"),
    Fault("a causal mask", "attention", "forward", "no step attends to later ones (a causal mask)",
          _attend(lambda s, v: _mean(jax.nn.softmax(jnp.where(
              jnp.tril(jnp.ones(s.shape[-2:], bool)), s * _SCALE, -jnp.inf)), v)),
          case="heads"),
    Fault("softmax over the heads' queries", "attention", "forward",
          "the softmax runs over the queries, not over the keys",
          _attend(lambda s, v: _mean(jax.nn.softmax(s * _SCALE, axis=-2), v)), case="heads"),
    Fault("heads exchanged in the values", "attention", "forward", UNKNOWN,
          _attend(lambda s, v: _mean(jax.nn.softmax(s * _SCALE), v[..., ::-1, :])),
          case="heads"),
    Fault("softmax in float32 in float64", "attention", "forward", UNKNOWN,
          _attend(lambda s, v: _mean(jax.nn.softmax(pieces.float32(s * _SCALE)), v)),
          case="heads"),
    Fault("no gradient through the heads' weights", "attention", "gradients",
          "no gradient flows through the weights",
          _attend(lambda s, v: _mean(jax.lax.stop_gradient(jax.nn.softmax(s * _SCALE)), v)),
          case="heads"),
    Fault("no residual around the heads", "norm.input", "forward",
          "the first term of a sum is missing",
          method(Heads, "join", lambda real, model, x, attended: attended), case="heads"),
    Fault("the norm before the residual", "norm.input", "forward",
          "the first term of a sum is missing",
          method(Heads, "join", lambda real, model, x, attended: x + model.norm(attended)),
          case="heads"),
    Fault("the first step of the heads for the last", "head.input", "forward",
          "the first step is read, not the last",
          method(Heads, "read", lambda real, model, y: y[:, 0]), case="heads"),
    Fault("in_proj's query and key exchanged", "attention.in_proj_weight", "parameters",
          "hold different values", case="heads", hold=lambda held: {
              n: a[[4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11]] if "in_proj_weight" in n else a
              for n, a in held.items()}),
    Fault("out_proj transposed", "attention.out_proj.weight", "parameters", "it is transposed",
          case="heads",
          hold=lambda held: {n: a.T if "out_proj.weight" in n else a for n, a in held.items()}),
    Fault("the heads' softmax in bfloat16 within float32", "attention", "float32", UNKNOWN,
          _attend(lambda s, v: _mean(pieces.only_float32(pieces.bfloat16)(
              jax.nn.softmax(s * _SCALE)), v)), case="heads"),
)  # fmt: skip
