"""Mistakes in an optimizer are named."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

torch = pytest.importorskip("torch")

import parity
from parity.sides.optimizers import ADAM, ADAMW, MOMENTUM

pytestmark = pytest.mark.usefixtures("operation_by_operation")


def dampened(rate):
    """torch's SGD with momentum 0.9 and dampening 0.9: the first gradient enters whole."""

    def update(gradients, state, parameters=None):
        first, (trace,) = state
        enters = jnp.where(first, 1.0, 0.1)
        trace = jax.tree.map(lambda b, g: 0.9 * b + enters * g, trace, gradients)
        steps = jax.tree.map(lambda b: -rate * b, trace)
        return steps, (jnp.zeros_like(first), optax.TraceState(trace))

    def init(parameters):
        return jnp.ones((), bool), optax.trace(0.9).init(parameters)

    return optax.GradientTransformation(init, update)


def one_ahead(rate):
    """Adam that corrects the first step's moments as if it were the second."""
    adam = optax.adam(rate)

    def init(parameters):
        first, *rest = adam.init(parameters)
        return (first._replace(count=first.count + 1), *rest)

    return optax.GradientTransformation(init, adam.update)


IN_UPDATES = {
    "the weight decay is 1e-2, PyTorch's default for AdamW": (
        replace(ADAMW, torch=lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.1)),
        optax.adamw(1e-3, weight_decay=1e-2),
    ),
    "the weight decay leaves out parameters of one axis, as biases and norms": (
        ADAMW,
        optax.adamw(
            1e-3, weight_decay=1e-2, mask=lambda p: jax.tree.map(lambda a: a.ndim > 1, p)
        ),
    ),
    "the weight decay is not multiplied by the learning rate": (
        ADAMW,
        optax.chain(
            optax.scale_by_adam(), optax.scale(-1e-3), optax.add_decayed_weights(-1e-2)
        ),
    ),
    "the weight decay is added to the step (AdamW), not to the gradient (Adam with L2)": (
        replace(ADAM, torch=lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=0.1)),
        optax.adamw(1e-3, weight_decay=0.1),
    ),
    "the largest second moment is not kept (amsgrad)": (
        replace(ADAM, torch=lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True)),
        optax.adam(1e-3),
    ),
    "the momentum is not dampened": (
        replace(
            MOMENTUM, torch=lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, dampening=0.5)
        ),
        optax.sgd(0.01, momentum=0.9),
    ),
    "each gradient is clipped to ±1": (
        MOMENTUM, optax.chain(optax.clip(1), optax.sgd(0.01, momentum=0.9)),
    ),
    "eps is 1e-6": (ADAM, optax.adam(1e-3, eps=1e-6)),
    "eps is 0": (ADAM, optax.adam(1e-3, eps=0.0)),
    "beta 2 is 0.95": (ADAM, optax.adam(1e-3, b2=0.95)),
    "the betas are exchanged": (ADAM, optax.adam(1e-3, b1=0.999, b2=0.9)),
    "there is no momentum": (MOMENTUM, optax.sgd(0.01)),
    "the momentum is 0.99": (MOMENTUM, optax.sgd(0.01, momentum=0.99)),
    "the largest corrected second moment is kept (optax.amsgrad)": (ADAM, optax.amsgrad(1e-3)),
    "the gradients are ascended": (ADAM, optax.chain(optax.scale(-1), optax.adam(1e-3))),
    "the momentum is dampened, from its second step on": (MOMENTUM, dampened(0.01)),
    "the count of steps is one ahead": (ADAM, one_ahead(1e-3)),
    "gradients are clipped to a norm of 1": (
        MOMENTUM, optax.chain(optax.clip_by_global_norm(1), optax.sgd(0.01, momentum=0.9)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("words", IN_UPDATES)
def test_a_mistake_in_an_optimizer_is_named(words):
    torch.manual_seed(0)
    optimizer, mistaken = IN_UPDATES[words]
    x = np.random.default_rng(0).standard_normal((2, 3), dtype=np.float32)
    with jax.numpy_dtype_promotion("standard"):
        report = parity.check(
            torch.nn.Linear(3, 2),
            lambda w, x: x @ w["weight"].T + w["bias"][None],
            3 * x,
            seed=3,  # of batches that show a second moment that falls
            dtypes=["float64"],
            training_steps=3,
            optimizers=[replace(optimizer, optax=mistaken)],
        )
    note = report.first_divergence.note
    assert note.rpartition("; ")[2].partition(" (matches")[0] == words, note
