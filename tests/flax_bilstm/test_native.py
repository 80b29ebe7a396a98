"""The C++ layer: every instruction set, every way through the code, and what JAX makes of it."""

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import flax_bilstm as fb
from flax_bilstm import recurrence
from flax_bilstm.recurrence import directions
from flax_bilstm.recurrence.equations import State, Weights, validity
from flax_bilstm.recurrence.native import library
from flax_bilstm.recurrence.native.layer import run_layer

if not fb.native_available():
    pytest.skip(fb.native_available().reason, allow_module_level=True)


@pytest.fixture(params=library.INSTRUCTION_SETS)
def instruction_set(request):
    """Each that this processor has, in turn, and then the best one again."""
    loaded = library.load()
    if not loaded.flax_bilstm_choose_instruction_set(request.param.encode()):
        pytest.skip(f"this processor has no {request.param}")
    yield loaded
    loaded.flax_bilstm_choose_instruction_set(loaded.flax_bilstm_best_instruction_set())


# time, batch, input, hidden: weights read where they lie, over more than one chunk of steps, and
# packed; full and partial vectors, tiles of every number of rows, sizes below one vector.
SHAPES = {
    "in place": (5, 1, 7, 32),
    "in place, chunks": (50, 2, 3, 33),
    "in place, every row": (3, 4, 2, 64),
    "in place, three rows": (2, 3, 1, 47),
    "one of everything": (1, 1, 1, 1),
    "packed, small": (4, 2, 3, 5),
    "packed, five rows": (3, 5, 4, 16),
    "packed, whole tiles": (3, 12, 5, 48),
    "packed, many rows": (2, 23, 9, 70),
}


def case(shape, dtype):
    """Weights of each direction, x, initial states and valid; lengths from 0 to time."""
    time, batch, inputs, hidden = shape
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape) / 2, dtype)

    def one():
        bias = normal(4 * hidden), normal(4 * hidden)
        return Weights(normal(inputs, 4 * hidden), normal(hidden, 4 * hidden), *bias, None)

    weights = tuple(one() for _ in range(2))
    states = State(normal(2, batch, hidden), normal(2, batch, hidden))
    lengths = jnp.asarray(rng.integers(0, time + 1, batch)).at[0].set(time)
    valid = validity(lengths, time)
    return weights, normal(time, batch, inputs) * valid.astype(dtype), states, valid


def layer_in_numpy(weights, x, states, valid):
    """The published equations in float64, a loop over steps and directions."""
    outputs, finals = [], []
    for k, each in enumerate(weights):
        kernel_ih, kernel_hh, bias_ih, bias_hh = (np.asarray(a, np.float64) for a in each[:4])
        h, c = (np.asarray(part[k], np.float64) for part in states)
        steps = range(len(x))
        found = {}
        for t in reversed(steps) if k else steps:
            z = np.asarray(x[t], np.float64) @ kernel_ih + bias_ih + h @ kernel_hh + bias_hh
            i, f, g, o = np.split(z, 4, axis=-1)
            i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
            cell = f * c + i * np.tanh(g)
            hidden = o * np.tanh(cell)
            here = np.asarray(valid[t])
            h, c = np.where(here, hidden, h), np.where(here, cell, c)
            found[t] = np.where(here, hidden, 0)
        outputs.append(np.stack([found[t] for t in steps]))
        finals.append((h, c))
    h_n, c_n = zip(*finals, strict=True)
    return {"outputs": np.concatenate(outputs, -1), "h_n": np.stack(h_n), "c_n": np.stack(c_n)}


def run_directions(implementation, weights, x, states, valid):
    """A layer as an LSTM runs it."""
    return directions.run_layer(recurrence.resolve(implementation), weights, x, states, valid)


@jax.jit
def results(weights, x, states, valid):
    outputs, final = run_layer(weights, x, states, valid)
    return {"outputs": outputs, "h_n": final.hidden, "c_n": final.cell}


@partial(jax.jit, static_argnames="implementation")
def gradients(implementation, weights, x, states, valid):
    def loss(weights, x, states):
        outputs, final = run_directions(implementation, weights, x, states, valid)
        return jnp.sum(jnp.sin(outputs)) + jnp.sum(final.hidden**3) + jnp.sum(final.cell**2)

    return jax.grad(loss, argnums=(0, 1, 2))(weights, x, states)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_instruction_set_against_the_equations(assert_close, instruction_set, shape):
    for dtype, tolerance in ((jnp.float32, 4e-6), (jnp.float64, 8e-15)):
        arrays = case(shape, dtype)
        actual = results(*arrays)
        assert all(value.dtype == dtype for value in actual.values())
        assert_close(actual, layer_in_numpy(*arrays), tolerance)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_instruction_set_differentiates_as_the_plain_one(
    assert_close, instruction_set, shape
):
    arrays = case(shape, jnp.float64)
    actual, expected = (
        {str(path): leaf for path, leaf in jax.tree.leaves_with_path(gradients(name, *arrays))}
        for name in ("native", "scan")
    )
    assert_close(actual, expected, 1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_and_tanh_to_two_units_in_the_last_place(instruction_set, dtype):
    rng = np.random.default_rng(0)
    info = np.finfo(dtype)
    sizes = 2.0 ** rng.uniform(np.log2(info.tiny), 10, 200_000)
    x = np.concatenate([sizes, -sizes, np.linspace(-100, 100, 400_001), [0.0, -0.0]]).astype(dtype)
    sigmoid, tanh = evaluate(instruction_set, x)
    wide = x.astype(np.longdouble)
    with np.errstate(over="ignore", under="ignore"):
        for actual, exact in ((sigmoid, 1 / (1 + np.exp(-wide))), (tanh, np.tanh(wide))):
            unit = np.spacing(np.maximum(np.abs(exact.astype(dtype)), info.tiny))
            # Below the smallest normal number, which JAX rounds to 0, any such number will do.
            error = np.where(np.abs(exact) < info.tiny, 0, np.abs(actual - exact) / unit)
            assert error.max() <= 2, x[error.argmax()]
            assert (np.abs(actual[np.abs(exact) < info.tiny]) <= info.tiny).all()
    np.testing.assert_array_equal(np.signbit(tanh), np.signbit(x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinity_of_sigmoid_and_tanh(instruction_set, dtype):
    sigmoid, tanh = evaluate(instruction_set, np.array([np.nan, np.inf, -np.inf], dtype))
    np.testing.assert_array_equal(sigmoid, [np.nan, 1, 0])
    np.testing.assert_array_equal(tanh, [np.nan, 1, -1])


def evaluate(loaded, x):
    """σ(x) and tanh(x), by the instruction set that is chosen."""
    sigmoid, tanh = np.empty_like(x), np.empty_like(x)
    pointers = (array.ctypes.data for array in (x, sigmoid, tanh))
    loaded.flax_bilstm_activations(x.itemsize, x.size, *pointers)
    return sigmoid, tanh


def test_nan_and_infinity_go_where_they_go_in_torch(instruction_set):
    torch = pytest.importorskip("torch")
    reference = torch.nn.LSTM(3, 17, bidirectional=True)
    model = fb.LSTM(
        3, 17, bidirectional=True, time_major=True, implementation="native", rngs=nnx.Rngs(0)
    )
    fb.load_state_dict(model, reference.state_dict())
    x = np.random.default_rng(0).normal(size=(6, 5, 3)).astype(np.float32)
    x[2, 1, 0], x[3, 2, 1], x[4, 3, 2] = np.nan, np.inf, -np.inf
    with torch.no_grad():
        expected = reference(torch.tensor(x))[0].numpy()
    np.testing.assert_allclose(model(x)[0], expected, atol=1e-6)
    assert np.isnan(expected).any()


@pytest.mark.parametrize("batch", [3, 23])
def test_a_row_has_the_same_bits_in_any_batch(assert_identical, instruction_set, batch):
    """Where the weights are packed, and where they are not: a row does not know its tile."""
    weights, x, states, valid = case((5, batch, 6, 40), jnp.float32)
    whole = results(weights, x, states, valid)
    rows = np.roll(np.arange(batch), 1)
    turned = results(
        weights, x[:, rows], jax.tree.map(lambda a: a[:, rows], states), valid[:, rows]
    )
    assert_identical(turned, jax.tree.map(lambda a: a[:, rows], whole))


PROGRAM = """
    import hashlib, os
    os.sched_setaffinity(0, {cpus})
    import jax, jax.numpy as jnp, numpy as np
    from flax import nnx
    import flax_bilstm as fb

    digest = hashlib.sha256()
    for batch, time in ((1, 60), (3, 4), (23, 4)):
        lstm = fb.LSTM(5, 40, bidirectional=batch != 23, implementation="native", rngs=nnx.Rngs(0))
        x = np.random.default_rng(0).normal(size=(batch, time, 5)).astype(np.float32)
        gradient = nnx.jit(nnx.grad(lambda lstm, x: (lstm(x)[0] ** 2).sum(), argnums=1))
        for array in (lstm(x)[0], gradient(lstm, x)):
            digest.update(np.asarray(array).tobytes())
    print(digest.hexdigest())
"""


def run_python(script, **environment):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_one_processor_and_several_give_the_same_bits():
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        pytest.skip("this machine has one processor")
    runs = [run_python(PROGRAM.format(cpus=cpus)) for cpus in (available[:1], available)]
    assert not any(run.returncode for run in runs), runs
    assert runs[0].stdout == runs[1].stdout != ""


def test_many_calls_at_once_end():
    """More at once than there are threads, inside of one program and from many callers."""
    weights, x, states, valid = case((20, 9, 4, 33), jnp.float32)
    expected = results(weights, x, states, valid)["outputs"]

    @jax.jit
    def many(x):
        return [run_layer(weights, x + 0 * k, states, valid)[0] for k in range(16)]

    with ThreadPoolExecutor(12) as callers:
        for outputs in callers.map(many, [x] * 48):
            for each in outputs:
                np.testing.assert_array_equal(each, expected)


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


ASK = "import flax_bilstm as fb; print(*fb.native_available(), sep='|')"


def test_the_environment_variable():
    assert run_python(ASK, FLAX_BILSTM_NATIVE="off").stdout == "False|FLAX_BILSTM_NATIVE=off\n"
    run = run_python(ASK, FLAX_BILSTM_NATIVE="portable")
    assert run.stdout == "True|runs on CPUs, with the instruction set portable\n"
    run = run_python(ASK, FLAX_BILSTM_NATIVE="sse")
    assert "expected 'off' or an instruction set of this processor" in run.stderr


def test_a_jaxlib_that_is_too_old_is_warned_of_once(monkeypatch):
    def ask_twice():
        return [bool(fb.native_available()) for _ in range(2)]

    library.native_available.cache_clear()
    monkeypatch.setattr(library, "_ffi_version", lambda: 1)
    try:
        with pytest.warns(RuntimeWarning, match="jaxlib .* has 1") as warned:
            answers = ask_twice()
        assert answers == [False, False]
        assert len(warned) == 1
    finally:
        monkeypatch.undo()
        library.native_available.cache_clear()
    assert ask_twice() == [True, True]
