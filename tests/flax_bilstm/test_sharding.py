"""A batch split over two CPU devices, or over two processes, gives what one device gives."""

import contextlib
import functools
import os
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

import flax_bilstm as fb
from flax_bilstm import sharding
from flax_bilstm.recurrence import IMPLEMENTATIONS, checkpointed

TOLERANCE = 1e-12
BATCH, INPUTS, HIDDEN, OUTPUTS = 5, 3, 4, 2
TIME = checkpointed.LONGEST_SEGMENT + 1  # two segments, the second filled up
AXIS_TYPES = [AxisType.Auto, AxisType.Explicit]
TWO_PROCESSES = Path(__file__).with_name("two_processes.py")


def make_mesh(axis_type=AxisType.Auto):
    """Over the two CPU devices that tests/conftest.py asks for."""
    devices = jax.devices("cpu")
    assert len(devices) == 2
    return sharding.make_mesh(devices, axis_type)


def make_model(implementation):
    return fb.BiLSTMWithAttention(
        INPUTS,
        HIDDEN,
        OUTPUTS,
        implementation=implementation,
        param_dtype=jnp.float64,
        rngs=nnx.Rngs(0),
    )


def make_batch(with_lengths):
    """x, targets and lengths or None."""
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=(BATCH, TIME, INPUTS)), rng.normal(size=(BATCH, OUTPUTS))
    return x, target, rng.integers(1, TIME + 1, BATCH) if with_lengths else None


def loss_and_gradients(model, x, target, lengths, mask):
    """The loss over the examples in the mask, and the gradients of parameters and x, by name."""

    def loss(model, x):
        errors = ((model(x, lengths=lengths) - target) ** 2).sum(axis=-1)  # (batch,)
        return (errors * mask).sum() / mask.sum()

    value, (d_model, d_x) = nnx.value_and_grad(loss, argnums=(0, 1))(model, x)
    parameters = {jax.tree_util.keystr(p): g for p, g in jax.tree.leaves_with_path(d_model)}
    return {"loss": value, "x": d_x} | parameters


@functools.cache
def on_one_device(implementation, with_lengths):
    x, target, lengths = make_batch(with_lengths)
    x, target, mask = jnp.asarray(x), jnp.asarray(target), jnp.ones(BATCH)
    return nnx.jit(loss_and_gradients)(make_model(implementation), x, target, lengths, mask)


def on_two_devices(jit, implementation, with_lengths, axis_type, in_mesh):
    """The same of the same batch, which does not divide evenly."""
    mesh = make_mesh(axis_type)
    batch, mask = sharding.pad_batch(make_batch(with_lengths), 2)
    batch, mask = sharding.shard_batch((batch, mask.astype(np.float64)), mesh)
    model = sharding.replicate(make_model(implementation), mesh)
    with jax.set_mesh(mesh) if in_mesh else contextlib.nullcontext():
        results = jit(model, *batch, mask)
    d_x = np.asarray(results["x"])
    assert not d_x[BATCH:].any()  # nothing depends on the filling
    return results | {"x": d_x[:BATCH]}


def split(model):
    """`loss_and_gradients` as a function of the model's state."""
    graph, state = nnx.split(model)
    return lambda state, *batch: loss_and_gradients(nnx.merge(graph, state), *batch), state


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("in_mesh", [False, True], ids=["arrays", "set_mesh"])
@pytest.mark.parametrize("axis_type", AXIS_TYPES, ids=str)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_two_devices_give_what_one_gives(assert_close, implementation, axis_type, in_mesh):
    run = nnx.jit(loss_and_gradients)
    actual = on_two_devices(run, implementation, True, axis_type, in_mesh)
    assert_close(actual, on_one_device(implementation, True), TOLERANCE)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("axis_type", AXIS_TYPES, ids=str)
def test_without_lengths_and_through_jax_jit(assert_close, axis_type):
    def run(model, *batch):
        function, state = split(model)
        return jax.jit(function)(state, *batch)

    actual = on_two_devices(run, "fused", False, axis_type, False)
    assert_close(actual, on_one_device("fused", False), TOLERANCE)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("axis_type", AXIS_TYPES, ids=str)
def test_the_devices_exchange_gradients_only_and_once(axis_type):
    """Nothing is exchanged in the loops, at every step: each device runs its own examples."""

    def run(model, *batch):
        function, state = split(model)
        nonlocal compiled
        compiled = jax.jit(function).lower(state, *batch).compile()
        return compiled(state, *batch)

    compiled = None
    on_two_devices(run, "fused", True, axis_type, False)
    entry, loops = split_entry(compiled.as_text())
    collective = r" (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\("
    assert re.findall(collective, entry) == ["all-reduce"] * 2  # mask.sum(), then all the rest
    assert " while(" in entry
    assert not re.findall(collective, loops)
    for name, placed in compiled.output_shardings.items():
        assert placed.is_fully_replicated == (name != "x"), name


def split_entry(program):
    """The HLO text of the entry computation, and of all others: loop bodies, fusions."""
    before, entry = re.split(r"^ENTRY ", program, flags=re.MULTILINE)
    entry, after = entry.split("\n}", 1)
    return entry, before + after


@pytest.mark.parametrize("axis_type", AXIS_TYPES, ids=str)
def test_replicate_takes_what_dropout_draws_from(assert_close, axis_type):
    lstm = fb.LSTM(INPUTS, HIDDEN, num_layers=2, dropout=0.5, rngs=nnx.Rngs(0))
    replicated = sharding.replicate(lstm, make_mesh(axis_type))
    for leaf in jax.tree.leaves(replicated):
        assert leaf.sharding.is_fully_replicated
        assert len(leaf.sharding.device_set) == 2
    run = nnx.jit(lambda lstm, x: lstm(x)[0])
    x = np.ones((2, TIME, INPUTS), np.float32)
    outputs = run(replicated, sharding.shard_batch(x, make_mesh(axis_type)))
    assert_close({"outputs": outputs}, {"outputs": run(lstm, x)}, 1e-6)  # the same mask


def test_make_mesh_takes_all_devices():
    mesh = sharding.make_mesh()
    assert mesh.axis_names == (sharding.AXIS,)
    assert mesh.devices.tolist() == jax.devices()


def test_shard_batch_splits_the_first_axis():
    x, lengths = sharding.shard_batch((np.arange(8.0).reshape(4, 2), np.arange(4)), make_mesh())
    for array in (x, lengths):
        assert array.sharding.spec == PartitionSpec(sharding.AXIS)
        first, second = (np.asarray(shard.data) for shard in array.addressable_shards)
        np.testing.assert_array_equal(np.concatenate([first, second]), np.asarray(array))
        assert first.shape == second.shape


@pytest.mark.parametrize("leaf", [np.zeros((3, 2)), np.zeros(()), 0.5], ids=["3×2", "0-d", "float"])
def test_shard_batch_refuses_a_batch_that_does_not_divide(leaf):
    shape = re.escape(f"got shape {np.shape(leaf)}")
    with pytest.raises(ValueError, match=f"a multiple of 2, the parts.*{shape}"):
        sharding.shard_batch((np.zeros((2, 2)), leaf), make_mesh())


@pytest.mark.parametrize(("size", "padded"), [(0, 0), (1, 4), (3, 4), (4, 4), (5, 8)])
def test_pad_batch(size, padded):
    x, lengths = np.arange(2.0 * size).reshape(size, 2), np.arange(size) + 7
    (more_x, more_lengths), mask = sharding.pad_batch((jnp.asarray(x), lengths), 4)
    assert more_x.shape == (padded, 2)
    assert mask.tolist() == [1.0] * size + [0.0] * (padded - size)
    np.testing.assert_array_equal(more_x[:size], x)
    np.testing.assert_array_equal(more_lengths[:size], lengths)
    assert (more_lengths[size:] == 7).all()  # valid lengths: copies of the first example


def test_pad_batch_refuses_arrays_of_two_sizes():
    with pytest.raises(
        ValueError, match=re.escape("expected arrays of one batch size, got [2, 3]")
    ):
        sharding.pad_batch((np.zeros(2), np.zeros(3)), 2)


def test_pad_batch_refuses_a_multiple_that_is_not_positive():
    with pytest.raises(ValueError, match="multiple: expected an integer of at least 1, got 0"):
        sharding.pad_batch(np.zeros(2), 0)
    with pytest.raises(ValueError, match="multiple: expected at most 1048576, got 2147483647"):
        sharding.pad_batch(np.zeros(2), 2**31 - 1)


@pytest.mark.usefixtures("x64", "standard_promotion")
def test_two_processes_of_two_devices_train_as_one(quick_environment, tmp_path, assert_close):
    worker = runpy.run_path(str(TWO_PROCESSES))
    ranks = range(worker["PROCESSES"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    started = [
        subprocess.Popen(
            [sys.executable, TWO_PROCESSES, coordinator, str(rank), tmp_path / f"{rank}.npz"],
            env=os.environ | quick_environment | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ranks
    ]
    batch = [np.concatenate(parts) for parts in zip(*map(worker["examples"], ranks), strict=True)]
    alone = worker["train"](batch, np.ones(len(batch[0])))
    try:
        outputs = [process.communicate(timeout=240)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, output in zip(started, outputs, strict=True):
        assert process.returncode == 0, output
    for rank in ranks:
        with np.load(tmp_path / f"{rank}.npz") as trained:
            assert_close(dict(trained), alone, TOLERANCE)
