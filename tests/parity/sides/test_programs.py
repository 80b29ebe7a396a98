import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")

from flax import nnx

from flax_bilstm.conversion.rows import rows as rows_of
from parity.sides import programs
from parity.sides.nnx_side import NnxSide
from parity.sides.optimizers import ADAM
from parity.sides.programs import Program
from parity.sides.training_mode import start_flax


@pytest.fixture
def compiled(monkeypatch):
    """Whether each program was compiled simply, in order, with nothing compiled before."""
    found = []
    compile_ = programs._compile

    def noted(lowered, simply):
        found.append(simply)
        return compile_(lowered, simply)

    monkeypatch.setattr(programs, "_COMPILED", {})
    monkeypatch.setattr(programs, "_compile", noted)
    return found


def test_float32_is_compiled_as_for_users(compiled):
    Program(jnp.sin)(np.ones(3, np.float32))
    assert compiled == [False]


def test_float64_is_compiled_simply_and_computes_the_same(compiled):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 20, 20))
    with jax.enable_x64(True):
        found = Program(lambda x, w: jnp.tanh(x @ w))(x, w)
    assert compiled == [True]
    np.testing.assert_allclose(found, np.tanh(x @ w), rtol=1e-13, atol=1e-15)


def test_the_same_program_is_compiled_once_and_changed_code_again(compiled):
    x = np.ones(3, np.float32)
    for factor, expected in ((2, 2), (2, 2), (3, 3)):
        np.testing.assert_array_equal(Program(lambda x, by=factor: by * x)(x), np.full(3, expected))
    assert len(compiled) == 2


def test_the_same_program_is_compiled_again_where_an_unused_argument_has_another_type(compiled):
    x = np.ones(3, np.float32)
    for unused in (np.ones(2, np.int32), np.ones(2, bool), np.ones((), bool)):
        np.testing.assert_array_equal(Program(lambda x, unused: 2 * x)(x, unused), 2 * x)


def test_a_program_is_started_with_shapes_alone_and_used_with_arrays(compiled):
    program = Program(lambda x: {"twice": 2 * x, "sum": x.sum()})
    started = program.start(jax.ShapeDtypeStruct((3,), np.float32))
    assert {n: s.shape for n, s in started.outputs.items()} == {"twice": (3,), "sum": ()}
    found = program(np.ones(3, np.float32))
    np.testing.assert_array_equal(found["twice"], np.full(3, 2))
    assert len(compiled) == 1


def test_what_is_prepared_is_what_a_training_runs(compiled):
    module = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    side = NnxSide(module, rows_of(module))
    batch = {"x": np.ones((4, 3), np.float32), "target": np.ones((4, 2), np.float32)}
    side.prepare(batch, "float32", [ADAM])
    list(side.train(side.parameters, [batch, batch], ADAM, "float32"))
    assert len(compiled) == 4  # values, slopes, start and step


def test_what_is_prepared_is_what_training_mode_runs(compiled):
    module = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    side = NnxSide(module, rows_of(module))
    side.running.start_training = start_flax
    batch = {"x": np.ones((4, 3), np.float32), "target": np.ones((4, 3), np.float32)}
    side.prepare(batch, "float32", [ADAM])
    prepared = set(programs._COMPILED)
    list(side.train(side.parameters, [batch, batch], ADAM, "float32"))
    assert set(programs._COMPILED) == prepared
    assert len(compiled) == 5  # values, slopes in both modes, start and step


def test_float64_is_right_where_a_value_must_be_equal_to_itself():
    """The gradient of a maximum flows to what is equal to it."""

    def largest(x, scale, shift, weight):
        affine = (x * scale + shift).max(1)
        return (jnp.tanh(affine) @ weight).sum() + (jax.nn.relu(x @ weight).max(1) ** 2).sum()

    rng = np.random.default_rng(0)
    given = [rng.standard_normal(shape) for shape in ((3, 10, 8), (1, 1, 8), (1, 1, 8), (8, 4))]
    with jax.enable_x64(True):
        slopes = jax.grad(largest, (0, 1, 2, 3))
        found, right = Program(slopes, simply=True)(*given), slopes(*given)
    for one, other in zip(found, right, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
