"""Faults that evaluation mode does not show: of Dropout, and of statistics never updated."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from parity.selftest import planting
from parity.selftest.fault import UNKNOWN, Fault
from parity.selftest.networks.training_mode import Drops
from parity.sides.optimizers import SGD

method = planting.method
SAYS = "with fixed numbers for every Dropout, the output differs"
STOPS = "with fixed numbers for every Dropout, the gradient differs"


def _norm(use: Any) -> planting.Plant:
    """`use(x, mean, var)` for evaluation mode's norm, before its scale and bias."""

    def change(call: Any, module: Any, x: Any) -> Any:
        if not module.use_running_average:
            return call(x)
        mean, var, scale, bias = (
            a[...][None] for a in (module.mean, module.var, module.scale, module.bias)
        )
        return use(x, mean, var) * scale + bias

    return planting.calling(nnx.BatchNorm, change)


def _sharing(real: Any) -> Any:
    def init(self: Any, rngs: Any) -> None:
        real(self, rngs)
        self.few.broadcast_dims = (0,)

    return init


def _straight(module: Drops, y: Array) -> Array:
    return y + jax.lax.stop_gradient(module.few(y) - y)


def _halved(real: Any, module: Drops, y: Array) -> Array:
    return real(y) * (1 if module.few.deterministic else 0.5)


def _dropped(name: str, step: str, change: Any, says: str = SAYS) -> Fault:
    return Fault(name, "dropout", "training", says, method(Drops, step, change), case="drops",
                 optimizer=SGD)  # fmt: skip


TRAINING_MODE = (
    _dropped("no Dropout", "hide", lambda real, m, x: nnx.relu(m.first(x))),
    _dropped("the Dropout twice", "hide", lambda real, m, x: m.few(real(x))),
    _dropped("the Dropout before its layer", "hide",
             lambda real, m, x: nnx.relu(m.first(m.few(x)))),
    _dropped("the rates exchanged", "hide", lambda real, m, x: m.many(nnx.relu(m.first(x)))),
    _dropped("the Dropout deterministic", "hide_again",
             lambda real, m, y: m.many(jnp.tanh(m.second(y)), deterministic=True)),
    _dropped("the Dropout before tanh", "hide_again",
             lambda real, m, y: jnp.tanh(m.many(m.second(y)))),
    _dropped("Dropout of the output, too", "read", lambda real, m, y: m.few(real(y))),
    Fault("one mask for the whole batch", "dropout", "training", SAYS,
          planting.patched(Drops, "__init__", _sharing), case="drops", optimizer=SGD),
    Fault("no gradient through the Dropout", "first.bias", "training", STOPS,
          method(Drops, "hide", lambda real, m, x: _straight(m, nnx.relu(m.first(x)))),
          case="drops", optimizer=SGD),
    Fault("the same mask in every call", "dropout masks", "training", "calls [1] of its Dropout",
          method(Drops, "hide", lambda real, m, x: m.few(nnx.relu(m.first(x)), rngs=nnx.Rngs(0))),
          case="drops", optimizer=SGD),
    Fault("half of the output in training mode", "dropout", "training", SAYS,
          method(Drops, "read", _halved), case="drops", optimizer=SGD),
    Fault("fresh statistics: the mean is left out", "norm", "forward", UNKNOWN,
          _norm(lambda x, mean, var: x / jnp.sqrt(var + 1e-5)), case="drops"),
    Fault("fresh statistics: the mean is added", "norm", "forward", UNKNOWN,
          _norm(lambda x, mean, var: (x + mean) / jnp.sqrt(var + 1e-5)), case="drops"),
    Fault("fresh statistics: the variance is left out", "norm", "forward", UNKNOWN,
          _norm(lambda x, mean, var: (x - mean) / jnp.sqrt(1 + 1e-5)), case="drops"),
)  # fmt: skip
