"""Each direction on a device of its own gives what both give on one."""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

import flax_bilstm as fb
from flax_bilstm import sharding

BATCH, TIME, INPUTS, HIDDEN = 3, 7, 4, 5  # neither the batch nor the time is even

CASES = {  # implementation, options, whether with lengths
    "one layer": ("fused", {}, False),
    "two layers, projected": ("fused", {"num_layers": 2, "proj_size": 2}, True),
    "without bias": ("scan", {"bias": False}, True),
    "in segments": ("checkpointed", {}, True),
    "one direction": ("fused", {"bidirectional": False}, True),  # nothing to split
}


def make_mesh():
    """Over the two CPU devices that tests/conftest.py asks for."""
    return sharding.make_mesh(jax.devices("cpu"), directions=2)


def make_lstm(implementation=None, **options):
    options = {"bidirectional": True, "param_dtype": jnp.float64} | options
    return fb.LSTM(
        INPUTS, HIDDEN, implementation=implementation, rngs=nnx.Rngs(0), **options
    )  # fmt: skip


def make_inputs(lstm, lengths):
    """x, (h_0, c_0), lengths or None."""
    rng = np.random.default_rng(0)
    count = lstm.num_layers * lstm.num_directions
    sizes = (lstm.proj_size or HIDDEN, HIDDEN)
    state = tuple(rng.normal(size=(count, BATCH, size)) for size in sizes)
    x = rng.normal(size=(BATCH, TIME, INPUTS))
    return x, state, np.array([TIME, 1, 4]) if lengths else None


@nnx.jit
def results_and_gradients(lstm, x, state, lengths):
    """Outputs, final states, and the gradients of x, initial states and parameters."""

    def loss(lstm, x, state):
        outputs, (h_n, c_n) = lstm(x, state, lengths)
        value = (outputs**2).sum() + (h_n**3).sum() + jnp.sin(c_n).sum()
        return value, (outputs, h_n, c_n)

    gradients, results = nnx.grad(loss, argnums=(0, 1, 2), has_aux=True)(lstm, x, state)
    leaves = jax.tree.leaves_with_path((results, gradients))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("implementation", "options", "lengths"), CASES.values(), ids=CASES)
def test_split_gives_what_one_device_gives(assert_close, implementation, options, lengths):
    lstm = make_lstm(implementation, **options)
    inputs = make_inputs(lstm, lengths)
    expected = results_and_gradients(lstm, *inputs)
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        actual = results_and_gradients(sharding.replicate(lstm, mesh), *inputs)
    assert_close(actual, expected, 1e-12)


def test_each_device_runs_one_direction():
    network = fb.BiLSTMWithAttention(128, 64, 1, rngs=nnx.Rngs(0))
    graph, state = nnx.split(network)
    x = np.ones((1, 64, 128), np.float32)  # long: each device also picks its weights

    def compile_in(mesh):
        run = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
        with jax.set_mesh(mesh):
            return run.lower(*sharding.replicate((state, x), mesh)).compile()

    split = compile_in(make_mesh())
    whole = compile_in(sharding.make_mesh(jax.devices("cpu")))
    assert 0.45 < split.cost_analysis()["flops"] / whole.cost_analysis()["flops"] < 0.55
    text = split.as_text()
    assert text.count(" while(") == 1
    assert text.count(" all-reduce(") == 2  # attention's scores, and the head's sum
    assert "all-gather" not in text  # of the outputs, which each device keeps its half of


def test_outputs_stay_where_they_were_computed():
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        lstm = sharding.replicate(make_lstm(param_dtype=jnp.float32), mesh)
        x = sharding.shard_batch(np.ones((BATCH, TIME, INPUTS), np.float32), mesh)
        outputs, (h_n, c_n) = nnx.jit(lambda lstm, x: lstm(x))(lstm, x)
    assert outputs.sharding.spec == PartitionSpec(None, None, sharding.DIRECTION)
    for final in (h_n, c_n):
        assert final.sharding.spec == PartitionSpec(sharding.DIRECTION)


def test_an_odd_number_of_devices_is_refused():
    with pytest.raises(ValueError, match="2 with an even number of devices, got 2 with 1"):
        sharding.make_mesh(jax.devices("cpu")[:1], directions=2)
    with pytest.raises(ValueError, match="expected 1, or 2"):
        sharding.make_mesh(directions=3)


FOUR_DEVICES = """
    import jax

    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)

    import runpy

    import numpy as np
    from jax.sharding import AxisType

    from flax_bilstm import sharding

    test = runpy.run_path({path!r})
    lstm = test["make_lstm"](num_layers=2)
    x = np.random.default_rng(0).normal(size=(4, 7, 4))
    lengths = np.array([7, 1, 4, 7])
    expected = test["results_and_gradients"](lstm, x, None, lengths)
    for axis_type in (AxisType.Auto, AxisType.Explicit):
        mesh = sharding.make_mesh(axis_type=axis_type, directions=2)
        assert dict(mesh.shape) == {{"batch": 2, "direction": 2}}
        x_split, lengths_split = sharding.shard_batch((x, lengths), mesh)
        copies = sharding.replicate(lstm, mesh)
        with jax.set_mesh(mesh):
            actual = test["results_and_gradients"](copies, x_split, None, lengths_split)
        for name in expected:
            np.testing.assert_allclose(actual[name], expected[name], rtol=1e-12, atol=1e-12)
"""


def test_four_devices_split_both_batch_and_directions():
    code = textwrap.dedent(FOUR_DEVICES).format(path=__file__)
    subprocess.run([sys.executable, "-c", code], check=True)
