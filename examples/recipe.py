"""The loss and the optimizer: the same in all three training scripts."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int

import digits
from config import Config
from digits import Array


def adamw(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """AdamW with clipped gradients; the learning rate warms up, then decays along a cosine."""
    rate = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        # optax needs at least one epoch to decay in
        warmup_steps=steps_per_epoch * min(config.warmup_epochs, config.epochs - 1),
        decay_steps=steps_per_epoch * config.epochs,
    )
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(rate, weight_decay=config.weight_decay),
    )


def noisy(
    config: Config, x: Float[Array, "batch time features"], key: jax.Array
) -> Float[Array, "batch time features"]:
    """The ink with noise added, different at every step."""
    return x + config.noise * jax.random.normal(key, x.shape)


def loss(
    config: Config, logits: Float[Array, "batch classes"], label: Int[Array, " batch"]
) -> Float[jax.Array, ""]:
    """The mean cross entropy with smoothed labels."""
    wanted = optax.smooth_labels(jax.nn.one_hot(label, digits.CLASSES), config.label_smoothing)
    return jnp.mean(optax.softmax_cross_entropy(logits, wanted))
