import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("torch")

from flax_bilstm.conversion.rows import Row
from flax_bilstm.conversion.transforms import TRANSPOSED, each
from parity.sides.intercept import Taps, intercepted_nnx
from parity.sides.nnx_side import NnxSide
from parity.sides.optimizers import ADAM, SGD


def entry(name, *path):
    return Row((name,), (path,), TRANSPOSED)


class Buffer(nnx.Variable):
    pass


class Model(nnx.Module):
    def __init__(self):
        self.linear = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        self.shift = Buffer(jnp.ones(3))
        self.noise = nnx.Dropout(0.5, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.noise(self.linear(x)) + self.shift[...][None]


TABLE = (
    entry("weight", "linear", "kernel"),
    entry("bias", "linear", "bias"),
    entry("shift", "shift"),
)


INPUTS = {"x": np.full((4, 2), 0.5), "target": np.zeros((4, 3)), "classes": np.arange(4)}


@pytest.fixture(scope="module")
def side():
    return NnxSide(Model(), TABLE, stages={"linear": "linear"})


def test_parameters_have_the_references_names_and_layout(side):
    assert {name: array.shape for name, array in side.parameters.items()} == {
        "weight": (3, 2),
        "bias": (3,),
        "shift": (3,),
    }


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_forward_runs_in_the_dtype_in_order_and_without_dropout(side, dtype):
    values = side.forward(side.parameters, INPUTS, dtype)
    assert list(values) == ["linear.input", "linear", "output"]  # not the alphabet's order
    assert {str(value.dtype) for value in values.values()} == {dtype}
    np.testing.assert_allclose(values["output"], values["linear"] + 1, rtol=1e-6)


def test_forward_uses_the_parameters_that_it_is_given(side):
    given = {"weight": np.arange(6.0).reshape(3, 2), "bias": np.zeros(3), "shift": np.zeros(3)}
    values = side.forward(given, INPUTS, "float64")
    np.testing.assert_array_equal(values["output"], INPUTS["x"] @ given["weight"].T)


def test_gradients_are_none_for_what_no_optimizer_sees(side):
    found = side.gradients(side.parameters, INPUTS, "float64")
    assert found["shift"] is None
    assert set(found) == {"weight", "bias", "shift", "x"}
    output = side.forward(side.parameters, INPUTS, "float64")["output"]
    np.testing.assert_allclose(found["bias"], 2 * output.sum(axis=0) / 12, rtol=1e-12)
    np.testing.assert_allclose(found["weight"], (2 * output / 12).T @ INPUTS["x"], rtol=1e-12)


def test_training_steps_and_moments(side):
    gradient = side.gradients(side.parameters, INPUTS, "float64")["weight"]
    (step,) = side.train(side.parameters, [INPUTS], SGD, "float64")
    np.testing.assert_allclose(
        step.parameters["weight"], side.parameters["weight"] - 0.01 * gradient, rtol=1e-12
    )
    np.testing.assert_array_equal(step.parameters["shift"], np.ones(3))
    (step,) = side.train(side.parameters, [INPUTS], ADAM, "float64")
    np.testing.assert_allclose(step.moments["weight.exp_avg"], 0.1 * gradient, rtol=1e-12)
    np.testing.assert_allclose(step.moments["weight.exp_avg_sq"], 1e-3 * gradient**2, rtol=1e-12)
    assert step.moments["shift.exp_avg"] is None


def test_updates_from_given_gradients_move_only_what_is_trained(side):
    """Also where the module has random streams, whose dtypes NumPy does not have."""
    gradients = side.gradients(side.parameters, INPUTS, "float64")
    (trained,) = side.train(side.parameters, [INPUTS], ADAM, "float64")
    (updated,) = side.update(side.parameters, [gradients], ADAM, "float64")
    for name, array in trained.parameters.items():
        np.testing.assert_array_equal(updated.parameters[name], array)
    given = {**gradients, "weight": None, "shift": np.ones(3)}
    (updated,) = side.update(side.parameters, [given], SGD, "float64")
    for name in ("weight", "shift"):
        np.testing.assert_array_equal(updated.parameters[name], side.parameters[name])
    assert not np.array_equal(updated.parameters["bias"], side.parameters["bias"])


def test_between_two_steps_the_callers_precision_holds(side):
    for _ in side.train(side.parameters, [INPUTS] * 2, SGD, "float64"):
        assert not jax.config.read("jax_enable_x64")


def test_a_table_that_points_nowhere_is_refused():
    with pytest.raises(ValueError, match=r"no leaf \['norm.scale'\] for scale"):
        NnxSide(Model(), (*TABLE, entry("scale", "norm", "scale")))


# A vocabulary that has more entries than torch's, whose values are forgotten.
PADDED = Row(
    ("bias",), (("linear", "bias"),), each(lambda leaf: leaf[:2], lambda t: np.pad(t, (0, 1)))
)


def test_a_row_that_forgets_what_the_module_holds_is_refused():
    model = Model()
    model.linear.bias[...] = jnp.ones(3)
    with pytest.raises(ValueError, match=r"linear.bias holds numbers .* the same bits"):
        NnxSide(model, (TABLE[0], PADDED, TABLE[2]))


def test_a_layer_that_computes_as_it_stores_follows_to_another_dtype():
    class Tokens(nnx.Module):
        def __init__(self):
            self.embed = nnx.Embed(4, 3, rngs=nnx.Rngs(0))

        def __call__(self, tokens):
            return self.embed(tokens)

    for model in (Tokens(), Tokens().embed):
        ((path, _),) = nnx.to_flat_state(nnx.state(model))
        side = NnxSide(model, (Row(("embed",), (path,), TRANSPOSED),))
        values = side.forward(side.parameters, {"x": np.arange(4)}, "float64")
        assert values["output"].dtype == np.float64


def test_interception_ends_with_its_block_also_after_an_error():
    model, taps = Model(), Taps()
    handlers = {"linear": taps.handler("linear", None)}
    with pytest.raises(RuntimeError), intercepted_nnx(handlers, {"linear": model.linear}):
        raise RuntimeError
    assert type(model.linear) is nnx.Linear
