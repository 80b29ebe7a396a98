"""Train the network on handwritten digits, on all cores or accelerators, and survive being killed.

    python examples/train_digits.py --output digits-run

Stop it at any time, even with kill -9, and run the same command again: it continues from its last
checkpoint and ends with the same parameters, bit for bit, as a run that was never stopped. For
that, everything random (initial parameters, order of the batches, noise) depends only on the seed
and the step, and the whole state between two steps is in the checkpoint.

Measured, seeds 0 to 4: 98.06 to 98.33 % of the 360 test digits right, 27 to 31 CPU seconds a run.

It writes to `digits-run/`: `checkpoints/`, those of the best and of the latest epoch;
`model.safetensors`, the best model, for `flax-bilstm convert` and PyTorch; `digits.png`, its
mistakes and its attention.
"""

import time

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from orbax.checkpoint import CheckpointManager
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

import checkpoints
import digits
import figures
import flax_bilstm as fb
import recipe
from config import Config, parse_arguments, remember
from flax_bilstm import sharding

Model = fb.BiLSTMWithAttention
Optimizer = nnx.Optimizer[Model]


def main() -> None:
    """Train, or continue training; then test the best epoch's model."""
    config = parse_arguments("Train the network on handwritten digits.")
    jax.config.update("jax_num_cpu_devices", config.cpu_devices)
    remember(config)
    data, mesh = digits.load(), sharding.make_mesh()
    model, optimizer = sharding.replicate(create(config, data.training), mesh)
    with checkpoints.open_in(config.output) as manager:
        train(config, data, mesh, manager, model, optimizer)
        checkpoints.restore(manager, manager.best_step(), model, optimizer)
    test(config, data.test, mesh, model)


def create(config: Config, data: digits.Sequences) -> tuple[Model, Optimizer]:
    """The untrained model and its optimizer."""
    model = Model(digits.FEATURES, config.hidden_dim, digits.CLASSES, rngs=nnx.Rngs(config.seed))
    rule = recipe.adamw(config, steps_per_epoch=len(data.label) // config.batch_size)
    return model, nnx.Optimizer(model, rule, wrt=nnx.Param)


@nnx.jit(static_argnames="config")
def train_step(
    model: Model, optimizer: Optimizer, batch: digits.Sequences, key: Array, config: Config
) -> Float[Array, ""]:
    """One step in place; returns the loss before it. The batch may be split over devices."""
    x = recipe.noisy(config, batch.x, jax.random.fold_in(key, optimizer.step[...]))

    def loss_of(model: Model) -> Float[Array, ""]:
        return recipe.loss(config, model(x, lengths=batch.lengths), batch.label)

    loss, gradients = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, gradients)
    return loss


def train(
    config: Config,
    data: digits.Data,
    mesh: Mesh,
    manager: CheckpointManager,
    model: Model,
    optimizer: Optimizer,
) -> None:
    """Train from the latest checkpoint to the last epoch, or stop early without improvement."""
    done = checkpoints.restore(manager, manager.latest_step(), model, optimizer)
    steps = len(data.training.label) // config.batch_size
    key = sharding.replicate(jax.random.key(config.seed), mesh)
    with progress_bar(steps * config.epochs, steps * done) as bar:
        for epoch in range(done + 1, config.epochs + 1):
            if epoch - 1 - (manager.best_step() or 0) >= config.patience:
                bar.console.print(f"stopped early: best was epoch {manager.best_step()}")
                break
            losses, began = [], time.perf_counter()
            for batch in digits.batches(data.training, config.batch_size, config.seed, epoch):
                batch = sharding.shard_batch(batch, mesh)
                losses.append(train_step(model, optimizer, batch, key, config))
                # The previous step's loss: waiting for the newest would leave the devices idle.
                loss, seconds = float(losses[-2:][0]), time.perf_counter() - began
                shown = (
                    f"loss {loss:.4f}, {len(losses) * config.batch_size / seconds:,.0f} digits/s"
                )
                bar.update(bar.task_ids[0], advance=1, description=shown)
            metrics = validate(config, data.validation, mesh, model)
            checkpoints.save(manager, epoch, metrics, model, optimizer)
            bar.console.print(
                f"epoch {epoch:3}   loss {np.mean(jax.device_get(losses)):.4f}   validation: "
                f"loss {metrics['loss']:.4f}, {metrics['accuracy']:.1%} right"
            )


@nnx.jit
def predict_step(model: Model, x: ArrayLike, lengths: ArrayLike) -> tuple[Array, Array]:
    """Logits (batch, classes), and the last step's attention (batch, time)."""
    logits, attention = model(x, lengths=lengths, return_attention=True)
    return logits, attention


def predict(
    config: Config, data: digits.Sequences, mesh: Mesh, model: Model
) -> tuple[np.ndarray, np.ndarray]:
    """`predict_step` for all of the data, in batches of the same size, the last one padded."""
    found = []
    for start in range(0, len(data.label), config.batch_size):
        part = data.take(slice(start, start + config.batch_size))
        filled, mask = sharding.pad_batch((part.x, part.lengths), config.batch_size)
        outputs = predict_step(model, *sharding.shard_batch(filled, mesh))
        found.append([np.asarray(output)[mask > 0] for output in outputs])
    logits, attention = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return logits, attention


def validate(config: Config, data: digits.Sequences, mesh: Mesh, model: Model) -> dict[str, float]:
    """The mean cross entropy and the accuracy."""
    logits, _ = predict(config, data, mesh, model)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, data.label)
    right = logits.argmax(axis=-1) == data.label
    return {"loss": float(losses.mean()), "accuracy": float(right.mean())}


def test(config: Config, data: digits.Sequences, mesh: Mesh, model: Model) -> None:
    """The model as a file, its accuracy, and a figure of its mistakes and of its attention."""
    fb.save(model, config.output / "model.safetensors")
    logits, attention = predict(config, data, mesh, model)
    predicted = logits.argmax(axis=-1)
    figures.draw(config.output / "digits.png", data, predicted, attention)
    print(f"test accuracy {(predicted == data.label).mean():.2%}; see {config.output}")


def progress_bar(total: int, completed: int) -> Progress:
    """Progress, loss and speed, in a terminal."""
    bar = Progress(BarColumn(), MofNCompleteColumn(), "{task.description}", TimeRemainingColumn())
    bar.add_task("", total=total, completed=completed)
    return bar


if __name__ == "__main__":
    main()
