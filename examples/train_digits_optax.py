"""`train_digits.py` with pure functions: parameters and optimizer state in, new ones out.

    python examples/train_digits_optax.py --output digits-run-optax

Progress bar, checkpoints and figure are left out. It writes the last epoch's `model.safetensors`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

import digits
import flax_bilstm as fb
import recipe
from config import Config, parse_arguments
from flax_bilstm import sharding

Apply = Callable[[nnx.State, digits.Array, digits.Array], Array]
"""(parameters, x, lengths) → logits."""


class State(NamedTuple):
    """Everything that a training step changes."""

    parameters: nnx.State
    optimizer: optax.OptState
    step: Int[Array, ""]


def main() -> None:
    """Train, then test."""
    config = parse_arguments("Train the network on handwritten digits, in pure functions.")
    jax.config.update("jax_num_cpu_devices", config.cpu_devices)
    data, mesh = digits.load(), sharding.make_mesh()
    model = fb.BiLSTMWithAttention(
        digits.FEATURES, config.hidden_dim, digits.CLASSES, rngs=nnx.Rngs(config.seed)
    )
    # The rest is the Linear that the network has but never calls: optimizers must not see it.
    graph, parameters, *rest = nnx.split(model, nnx.Param, ...)

    def apply(parameters: nnx.State, x: digits.Array, lengths: digits.Array) -> Array:
        return nnx.merge(graph, parameters, *rest)(x, lengths=lengths)

    rule = recipe.adamw(config, steps_per_epoch=len(data.training.label) // config.batch_size)
    step = jax.jit(partial(train_step, config, apply, rule))
    state = State(parameters, rule.init(parameters), jnp.array(0))
    state, key = sharding.replicate((state, jax.random.key(config.seed)), mesh)
    for epoch in range(1, config.epochs + 1):
        losses = []
        for batch in digits.batches(data.training, config.batch_size, config.seed, epoch):
            state, loss = step(state, sharding.shard_batch(batch, mesh), key)
            losses.append(loss)
        right = accuracy(apply, state.parameters, data.validation)
        print(
            f"epoch {epoch:3}   loss {jnp.stack(losses).mean():.4f}   validation: {right:.1%} right"
        )
    config.output.mkdir(parents=True, exist_ok=True)
    fb.save(nnx.merge(graph, state.parameters, *rest), config.output / "model.safetensors")
    print(f"test accuracy {accuracy(apply, state.parameters, data.test):.2%}")


def train_step(
    config: Config,
    apply: Apply,
    rule: optax.GradientTransformation,
    state: State,
    batch: digits.Sequences,
    key: Array,
) -> tuple[State, Float[Array, ""]]:
    """The state after one step, and the loss before it."""
    x = recipe.noisy(config, batch.x, jax.random.fold_in(key, state.step))

    def loss_of(parameters: nnx.State) -> Float[Array, ""]:
        return recipe.loss(config, apply(parameters, x, batch.lengths), batch.label)

    loss, gradients = jax.value_and_grad(loss_of)(state.parameters)
    updates, optimizer = rule.update(gradients, state.optimizer, state.parameters)
    parameters = optax.apply_updates(state.parameters, updates)
    return State(parameters, optimizer, state.step + 1), loss


@partial(jax.jit, static_argnums=0)
def accuracy(apply: Apply, parameters: nnx.State, data: digits.Sequences) -> Float[Array, ""]:
    """How many of the sequences are classified correctly."""
    predicted = apply(parameters, data.x, data.lengths).argmax(axis=-1)
    return jnp.mean(predicted == data.label)


if __name__ == "__main__":
    main()
