"""One of two processes that train together; `test_sharding` starts both, and trains alone too.

    python two_processes.py COORDINATOR RANK TARGET

Each has two CPU devices and its own three examples of the batch, which do not divide evenly. The
trained parameters are written to TARGET, as .npz under torch's names.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import flax_bilstm as fb
from flax_bilstm import sharding

PROCESSES, DEVICES, EXAMPLES, STEPS = 2, 2, 3, 5
TIME, INPUTS, HIDDEN, OUTPUTS = 4, 3, 5, 2


def examples(rank):
    """Process `rank`'s part of the batch: x, lengths and targets."""
    rng = np.random.default_rng(rank)
    x = rng.normal(size=(EXAMPLES, TIME, INPUTS))
    lengths = rng.integers(1, TIME + 1, EXAMPLES)
    return x, lengths, rng.normal(size=(EXAMPLES, OUTPUTS))


def train(batch, mask, place=lambda tree: tree):
    """Some steps of Adam in float64; returns the parameters under torch's names."""
    model = fb.BiLSTMWithAttention(
        INPUTS, HIDDEN, OUTPUTS, param_dtype=jnp.float64, rngs=nnx.Rngs(0)
    )
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    model, optimizer = place((model, optimizer))

    @nnx.jit
    def step(model, optimizer, x, lengths, target, mask):
        def loss(model):
            errors = ((model(x, lengths=lengths) - target) ** 2).sum(axis=-1)  # (batch,)
            return (errors * mask).sum() / mask.sum()

        optimizer.update(model, nnx.grad(loss)(model))

    for _ in range(STEPS):
        step(model, optimizer, *batch, mask)
    return fb.state_dict(model)


def main(coordinator, rank, target):
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)  # compiling is most of the time
    jax.config.update("jax_num_cpu_devices", DEVICES)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator, PROCESSES, int(rank), cluster_detection_method="deactivate"
    )
    assert (jax.process_count(), jax.device_count()) == (PROCESSES, PROCESSES * DEVICES)
    mesh = sharding.make_mesh()
    batch, mask = sharding.pad_batch(examples(int(rank)), DEVICES)
    batch, mask = sharding.shard_batch((batch, mask.astype(np.float64)), mesh)
    trained = train(batch, mask, lambda tree: sharding.replicate(tree, mesh))
    np.savez(target, **trained)
    with_keys = fb.LSTM(INPUTS, HIDDEN, num_layers=2, dropout=0.5, rngs=nnx.Rngs(0))
    sharding.replicate(with_keys, mesh)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
