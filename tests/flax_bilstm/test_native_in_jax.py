"""What JAX makes of the C++ layer: programs, derivatives, devices."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import flax_bilstm as fb
from flax_bilstm.recurrence.native.layer import run_layer

from .native_layer import case, run_directions, run_python

if not fb.native_available():  # where that hides a fault, test_native_library.py fails
    pytest.skip(fb.native_available().reason, allow_module_level=True)


def make_lstm(**options):
    return fb.LSTM(3, 4, bidirectional=True, rngs=nnx.Rngs(0), **options)


def lowered(lstm, *inputs, **options):
    graph, state = nnx.split(lstm)

    def loss(state, x):
        return nnx.merge(graph, state)(x)[0].sum()

    return jax.jit(jax.value_and_grad(loss), **options).lower(state, *inputs)


def test_it_is_the_default_where_one_cpu_runs():
    text = lowered(make_lstm(), jnp.ones((2, 5, 3))).as_text()
    assert text.count("@flax_bilstm_forward(") == text.count("@flax_bilstm_backward(") == 1
    assert "while" not in text


def test_a_batch_major_layer_is_not_transposed():
    """The library reads and writes both layouts, so that XLA need copy neither x nor outputs."""
    graph, state = nnx.split(make_lstm(num_layers=2))
    run = jax.jit(lambda state, x: nnx.merge(graph, state)(x)[0])
    program = run.lower(state, jnp.ones((2, 5, 3))).compile().as_text()
    assert program.count("custom-call(") == 2
    assert "transpose(" not in program
    assert "copy(" not in program


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_both_layouts_give_the_same_bits(ragged, bidirectional):
    time, batch = 5, 9
    x = jax.random.normal(jax.random.key(0), (batch, time, 3))
    lengths = jnp.asarray([1, 2, 3, 4, 5, 5, 4, 3, 2]) if ragged else None

    def outputs_and_gradients(time_major):
        layers = {"num_layers": 2, "bidirectional": bidirectional, "time_major": time_major}
        graph, state = nnx.split(fb.LSTM(3, 4, rngs=nnx.Rngs(0), **layers))

        def loss(state, x):
            x = jnp.swapaxes(x, 0, 1) if time_major else x
            outputs, final = nnx.merge(graph, state)(x, lengths=lengths)
            outputs = jnp.swapaxes(outputs, 0, 1) if time_major else outputs
            return jnp.sum(jnp.sin(outputs)) + jnp.sum(jnp.cos(final[1])), outputs

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(state, x)

    both = zip(*map(jax.tree.leaves, map(outputs_and_gradients, (False, True))), strict=True)
    for batch_major, time_major in list(both)[1:]:  # [0] is the loss, which XLA sums in any order
        assert jnp.array_equal(batch_major, time_major)


def test_gradients_twice_from_one_forward_pass(assert_close):
    """The backward pass writes over what the forward pass kept: not while it is needed again."""
    weights, x, states, valid = case((4, 6, 3, 8), jnp.float32)

    def twice(x):
        outputs, pull = jax.vjp(lambda x: run_layer(weights, x, states, valid)[0], x)
        return pull(outputs)[0], pull(outputs)[0]

    assert "output_operand_alias" in jax.jit(twice).lower(x).as_text()
    once = jax.grad(lambda x: jnp.sum(run_layer(weights, x, states, valid)[0] ** 2) / 2)(x)
    for function in (twice, jax.jit(twice)):
        for each in function(x):
            assert_close({"d x": each}, {"d x": once}, 1e-6)


@pytest.mark.parametrize("declared", [False, True])
def test_a_batch_split_over_devices_stays_split(declared):
    """Whether x says so itself, or only the compiled function's `in_shardings`."""
    mesh = Mesh(jax.devices("cpu"), ("batch",))
    split, copied = (NamedSharding(mesh, PartitionSpec(*names)) for names in (["batch"], []))
    x = jnp.ones((4, 5, 3))
    if declared:
        compiled = lowered(make_lstm(), x, in_shardings=(copied, split)).compile()
    else:
        compiled = lowered(make_lstm(), jax.device_put(x, split)).compile()
    text = compiled.as_text()
    assert "all-gather" not in text
    assert "flax_bilstm_forward" not in text
    assert "all-reduce" in text  # of the gradients


def test_what_is_left_to_fused():
    for options in ({"proj_size": 2}, {"dtype": jnp.bfloat16}):
        assert "flax_bilstm_" not in lowered(make_lstm(**options), jnp.ones((2, 5, 3))).as_text()


def test_vmap_over_inputs_is_one_call_of_a_larger_batch(assert_close):
    weights, x, states, valid = case((4, 2, 3, 8), jnp.float32)
    many = jnp.stack([x, 2 * x, 3 * x])

    def loss(weights, x):
        outputs, final = run_layer(weights, x, states, valid)
        return jnp.sum(outputs**2) + jnp.sum(final.cell)

    batched = jax.vmap(jax.grad(loss, argnums=1), in_axes=(None, 0))
    text = str(jax.make_jaxpr(batched)(weights, many))
    assert "scan" not in text
    assert text.count("lstm_forward[") == text.count("lstm_backward[") == 1
    alone = jnp.stack([jax.grad(loss, argnums=1)(weights, each) for each in many])
    assert_close({"d x": batched(weights, many)}, {"d x": alone}, 1e-6)


def test_remat_and_shard_map(assert_close):
    weights, x, states, valid = case((4, 4, 3, 8), jnp.float32)

    def loss(run, x):
        return jnp.sum(run(weights, x, states, valid)[0] ** 2)

    expected = jax.jit(jax.grad(partial(loss, run_layer)))(x)
    again = jax.jit(jax.grad(partial(loss, jax.checkpoint(run_layer))))(x)
    assert_close({"d x": again}, {"d x": expected}, 1e-7)

    batch = PartitionSpec(None, "batch")

    def of_each_device(weights, *arrays):
        varying = jax.lax.pcast(weights, "batch", to="varying")
        return run_directions("native", varying, *arrays)

    split = jax.shard_map(
        of_each_device,
        mesh=Mesh(jax.devices("cpu"), ("batch",)),
        in_specs=(PartitionSpec(), batch, batch, batch),
        out_specs=(batch, batch),
    )
    assert_close({"d x": jax.jit(jax.grad(partial(loss, split)))(x)}, {"d x": expected}, 1e-6)


CACHED = """
    import hashlib
    import jax, numpy as np
    from flax import nnx
    import flax_bilstm as fb

    jax.config.update("jax_compilation_cache_dir", {folder!r})
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    hits = []
    jax.monitoring.register_event_listener(
        lambda event, **_: hits.append(event) if event.endswith("cache_hits") else None
    )
    lstm = fb.LSTM(3, 20, rngs=nnx.Rngs(0))
    x = np.linspace(-1, 1, 5 * 7 * 3, dtype=np.float32).reshape(5, 7, 3)
    del hits[:]
    outputs = np.asarray(nnx.jit(lambda lstm, x: lstm(x)[0])(lstm, x))
    found = len(hits)
    expected = fb.LSTM(3, 20, implementation="scan", rngs=nnx.Rngs(0))(x)[0]
    np.testing.assert_allclose(outputs, expected, atol=1e-6)
    print(fb.native_available().available, found, hashlib.sha256(outputs).hexdigest())
"""


def test_the_persistent_compilation_cache(tmp_path):
    """Another process runs what one has compiled; without the library, what has no call of it."""
    program = CACHED.format(folder=str(tmp_path))
    runs = [run_python(program) for _ in range(2)]
    runs.append(run_python(program, FLAX_BILSTM_NATIVE="off"))
    assert not any(run.returncode for run in runs), runs
    first, second, without = (run.stdout.split() for run in runs)
    assert (first[:2], second[:2], without[0]) == (["True", "0"], ["True", "1"], "False")
    assert first[2] == second[2]
