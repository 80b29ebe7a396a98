"""The C++ layer's numbers: by every instruction set, in any batch, on any number of threads."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm.recurrence.native import library
from flax_bilstm.recurrence.native.layer import run_direction, run_layer

from .native_layer import case, run_directions, run_python

if not fb.native_available():  # where that hides a fault, test_native_library.py fails
    pytest.skip(fb.native_available().reason, allow_module_level=True)


@pytest.fixture(params=library.INSTRUCTION_SETS)
def instruction_set(request):
    """Each that this processor has, in turn, and then the best one again."""
    loaded = library.load()
    if not loaded.flax_bilstm_choose_instruction_set(request.param.encode()):
        assert request.param != "portable"  # the one that every processor has
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
    "packed, many rows": (2, 23, 37, 70),
}


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


@partial(jax.jit, static_argnames="batch_major")
def results(weights, x, states, valid, batch_major=False):
    outputs, final = run_layer(weights, x, states, valid, batch_major)
    return {"outputs": outputs, "h_n": final.hidden, "c_n": final.cell}


@partial(jax.jit, static_argnames=("implementation", "batch_major"))
def gradients(implementation, weights, x, states, valid, batch_major=False):
    def loss(weights, x, states):
        outputs, final = run_directions(implementation, weights, x, states, valid, batch_major)
        return jnp.sum(jnp.sin(outputs)) + jnp.sum(final.hidden**3) + jnp.sum(final.cell**2)

    found = jax.grad(loss, argnums=(0, 1, 2))(weights, x, states)
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(found)}


layouts = pytest.mark.parametrize("batch_major", [False, True], ids=["time first", "batch first"])


@layouts
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_instruction_set_against_the_equations(
    assert_close, instruction_set, shape, batch_major
):
    for dtype, tolerance in ((jnp.float32, 4e-6), (jnp.float64, 8e-15)):
        arrays = case(shape, dtype)
        actual = results(*arrays, batch_major=batch_major)
        assert all(value.dtype == dtype for value in actual.values())
        assert_close(actual, layer_in_numpy(*arrays), tolerance)


@layouts
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_instruction_set_differentiates_as_the_plain_one(
    assert_close, instruction_set, shape, batch_major
):
    for dtype, tolerance in ((jnp.float32, 2e-5), (jnp.float64, 1e-13)):
        arrays = case(shape, dtype)
        wide = jax.tree.map(lambda a: a.astype(bool if a.dtype == bool else jnp.float64), arrays)
        actual = gradients("native", *arrays, batch_major=batch_major)
        assert all(value.dtype == dtype for value in actual.values())
        assert_close(actual, gradients("scan", *wide), tolerance)


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
    from flax_bilstm.recurrence.native import library

    digest = hashlib.sha256()
    for batch, time, hidden, bidirectional in {layers}:
        lstm = fb.LSTM(
            5, hidden, bidirectional=bidirectional, implementation="native", rngs=nnx.Rngs(0)
        )
        x = np.random.default_rng(0).normal(size=(batch, time, 5)).astype(np.float32)

        def loss(lstm, x):
            outputs = lstm(x)[0]
            return (outputs**2).sum(), outputs

        run = nnx.jit(nnx.grad(loss, argnums=(0, 1), has_aux=True))
        assert fb.native_available()
        for name in library.INSTRUCTION_SETS:
            if library.load().flax_bilstm_choose_instruction_set(name.encode()):
                for array in jax.tree.leaves(run(lstm, x)):
                    digest.update(np.asarray(array).tobytes())
    print(digest.hexdigest())
"""

# batch, time, hidden, bidirectional. One thread runs each of the first three, which are small; the
# fourth is split between threads. Several threads share each step of the layers in the second line:
# of one direction alone, or where the weights are larger than one core's second cache.
LAYERS = [
    (1, 60, 40, True), (3, 4, 40, True), (23, 4, 40, False), (64, 40, 96, True),
    (2, 70, 257, False), (5, 40, 260, False), (1, 12, 500, True),
]  # fmt: skip


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="only Linux can keep a process to one processor"
)
def test_one_processor_and_several_give_the_same_bits():
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        pytest.skip("this machine has one processor, so there are no several to compare with")
    runs = [
        run_python(PROGRAM.format(cpus=cpus, layers=LAYERS)) for cpus in (available[:1], available)
    ]
    assert not any(run.returncode for run in runs), runs
    assert runs[0].stdout == runs[1].stdout != ""


@pytest.mark.parametrize(
    ("shape", "shared"),
    [((20, 23, 4, 64), False), ((70, 2, 4, 256), True)],
    ids=["parts", "shared"],
)
def test_many_calls_at_once_end(shape, shared):
    """More at once than there are threads, inside of one program and from many callers."""
    weights, x, states, valid = case(shape, jnp.float32)

    def run(x):
        if not shared:
            return run_layer(weights, x, states, valid)[0]
        state = jax.tree.map(lambda both: both[0], states)  # one direction: its steps are shared
        return run_direction(weights[0], x, state, valid, False)[0]

    expected = jax.jit(run)(x)

    @jax.jit
    def many(x):
        return [run(x + 0 * k) for k in range(16)]

    with ThreadPoolExecutor(12) as callers:
        for outputs in callers.map(many, [x] * (12 if shared else 48)):
            for each in outputs:
                np.testing.assert_array_equal(each, expected)
