"""`train_digits.py` with Linen: `init`, `apply` and a `TrainState`.

    python examples/train_digits_linen.py --output digits-run-linen

Progress bar, checkpoints and figure are left out. It writes the last epoch's `model.safetensors`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax.training.train_state import TrainState
from jaxtyping import Array, Float

import digits
import flax_bilstm as fb
import recipe
from config import Config, parse_arguments
from flax_bilstm import sharding


def main() -> None:
    """Train, then test."""
    config = parse_arguments("Train the network on handwritten digits, in Linen.")
    jax.config.update("jax_num_cpu_devices", config.cpu_devices)
    data, mesh = digits.load(), sharding.make_mesh()
    model = fb.linen.BiLSTMWithAttention(digits.FEATURES, config.hidden_dim, digits.CLASSES)
    key = jax.random.key(config.seed)
    variables = model.init(key, data.validation.x)  # {"params": …, "Unused": …}
    rule = recipe.adamw(config, steps_per_epoch=len(data.training.label) // config.batch_size)
    state = TrainState.create(apply_fn=model.apply, params=variables["params"], tx=rule)
    state, key = sharding.replicate((state, key), mesh)
    for epoch in range(1, config.epochs + 1):
        losses = []
        for batch in digits.batches(data.training, config.batch_size, config.seed, epoch):
            state, loss = train_step(config, state, sharding.shard_batch(batch, mesh), key)
            losses.append(loss)
        right = accuracy(state, data.validation)
        print(
            f"epoch {epoch:3}   loss {jnp.stack(losses).mean():.4f}   validation: {right:.1%} right"
        )
    variables = {**variables, "params": state.params}
    config.output.mkdir(parents=True, exist_ok=True)
    fb.save(fb.linen.to_module(model, variables), config.output / "model.safetensors")
    print(f"test accuracy {accuracy(state, data.test):.2%}")


@partial(jax.jit, static_argnums=0)
def train_step(
    config: Config, state: TrainState, batch: digits.Sequences, key: Array
) -> tuple[TrainState, Float[Array, ""]]:
    """The state after one step, and the loss before it."""
    x = recipe.noisy(config, batch.x, jax.random.fold_in(key, state.step))

    def loss_of(params: dict) -> Float[Array, ""]:
        logits = state.apply_fn({"params": params}, x, lengths=batch.lengths)
        return recipe.loss(config, logits, batch.label)

    loss, gradients = jax.value_and_grad(loss_of)(state.params)
    return state.apply_gradients(grads=gradients), loss


@jax.jit
def accuracy(state: TrainState, data: digits.Sequences) -> Float[Array, ""]:
    """How many of the sequences are classified correctly."""
    logits = state.apply_fn({"params": state.params}, data.x, lengths=data.lengths)
    return jnp.mean(logits.argmax(axis=-1) == data.label)


if __name__ == "__main__":
    main()
