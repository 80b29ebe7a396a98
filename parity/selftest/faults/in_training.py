"""Faults that show only in training: in the optimizer, or at trained weights."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
import torch
from flax import nnx

from flax_bilstm import network
from parity.selftest import planting
from parity.selftest.fault import UNKNOWN, Fault
from parity.selftest.networks.ours import HIDDEN_DIM
from parity.sides.optimizers import ADAM, ADAMW, MOMENTUM, SGD, Optimizer


def fed(optimizer: Optimizer, transformation: optax.GradientTransformation) -> Optimizer:
    """The optimizer with another transformation on the optax side."""
    return replace(optimizer, optax=transformation)


def _eps_inside(rate: float) -> optax.GradientTransformation:
    return optax.adam(rate, b1=0.9, b2=0.999, eps=0.0, eps_root=1e-8)


def _uncorrected(rate: float) -> optax.GradientTransformation:
    def update(gradients: Any, state: Any, parameters: Any = None) -> Any:
        m, v = state.mu, state.nu
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradients)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradients)
        steps = jax.tree.map(lambda m, v: -rate * m / (jnp.sqrt(v) + 1e-8), m, v)
        return steps, optax.ScaleByAdamState(state.count + 1, m, v)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)


def _frozen(optimizer: optax.GradientTransformation, name: str) -> optax.GradientTransformation:
    def update(gradients: Any, state: Any, parameters: Any = None) -> Any:
        steps, state = optimizer.update(gradients, state, parameters)
        return jax.tree_util.tree_map_with_path(
            lambda path, step: 0 * step if name in jax.tree_util.keystr(path) else step, steps
        ), state

    return optax.GradientTransformation(optimizer.init, update)


def _clipped_kernel(call: Any, module: Any, x: Any) -> Any:
    # The bound of the initial distribution: nothing is clipped until something is trained.
    bound = (2 * HIDDEN_DIM) ** -0.5
    return x @ jnp.clip(module.kernel[...], -bound, bound) + module.bias[...][None]


class _DecayingAll(nnx.Optimizer):
    """AdamW's decay on variables that are not trained, as when an optimizer gets every variable."""

    def update(self, model: Any, gradient: Any, /, **options: Any) -> None:
        super().update(model, gradient, **options)
        unused = nnx.state(model, network.Unused)
        nnx.update(model, jax.tree.map(lambda leaf: leaf * (1 - 1e-3 * 1e-2), unused))


_FAST = Optimizer("sgd at 0.5", lambda p: torch.optim.SGD(p, lr=0.5), optax.sgd(0.5))

TRAINING = (
    Fault("AdamW with optax's default weight decay", "lstm.weight_ih_l0", "training",
             "the weight decay is 1e-4, optax's default", optimizer=fed(ADAMW, optax.adamw(1e-3))),
    Fault("Adam with L2 for AdamW", "lstm.weight_ih_l0.exp_avg", "training",
             "the weight decay is added to the gradient (Adam with L2), not to the step (AdamW)",
             optimizer=fed(ADAMW, optax.chain(optax.add_decayed_weights(1e-2), optax.adam(1e-3)))),
    Fault("Keras's eps, 1e-7", "lstm.weight_ih_l0", "training", "eps is 1e-7, Keras's default",
             optimizer=fed(ADAM, optax.adam(1e-3, eps=1e-7))),
    Fault("eps inside the root", "lstm.weight_ih_l0", "training", "eps is inside the square root",
             optimizer=fed(ADAM, _eps_inside(1e-3))),
    Fault("beta 2 of 0.99", "lstm.weight_ih_l0.exp_avg_sq", "training", "beta 2 is 0.99",
             optimizer=fed(ADAM, optax.adam(1e-3, b2=0.99))),
    Fault("no bias correction", "lstm.weight_ih_l0", "training",
             "the moments' bias is not corrected",
             optimizer=fed(ADAM, _uncorrected(1e-3))),
    Fault("Nesterov momentum", "lstm.weight_ih_l0", "training", "the momentum is Nesterov's",
             optimizer=fed(MOMENTUM, optax.sgd(0.01, momentum=0.9, nesterov=True))),
    Fault("momentum dampened", "lstm.weight_ih_l0.momentum_buffer", "training",
             "gradients enter the momentum times 1 − momentum, as a moving average",
             optimizer=fed(MOMENTUM, optax.chain(optax.scale(0.1), optax.sgd(0.01, momentum=0.9)))),
    Fault("learning rate doubled", "lstm.weight_ih_l0", "training",
             "the learning rate is 2 times what it should be",
             optimizer=fed(SGD, optax.sgd(0.02))),
    Fault("the unused Linear decays with the rest", "attention.attn.weight", "training",
             "never trains it, yet the candidate moved it",
             planting.patched(nnx, "Optimizer", lambda real: _DecayingAll), optimizer=ADAMW),
    Fault("a bias left out of the update", "lstm.bias_hh_l0", "training",
             "never changes it",
             optimizer=fed(SGD, _frozen(optax.sgd(0.01), "bias_hh"))),
    Fault("the head's weight clipped to where it started", "fc", "training", UNKNOWN,
             planting.calling(nnx.Linear, _clipped_kernel), optimizer=_FAST),
)  # fmt: skip
