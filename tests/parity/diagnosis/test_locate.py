from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
import parity
from flax_bilstm.conversion.rows import rows
from parity.compare import compare_sides
from parity.diagnosis.lstm import inside as localiser
from parity.diagnosis.lstm.stages import Stages
from parity.diagnosis.lstm.truth import truth
from parity.diagnosis.mistakes import rounding
from parity.diagnosis.stages import alone
from parity.place import Place
from parity.results import Row
from parity.selftest import planting
from parity.sides import pair as pairs
from parity.sides.optimizers import ADAMW, SGD
from parity.sides.pair import of_modules

pytestmark = pytest.mark.usefixtures("operation_by_operation")


def every(stages):
    for stage in stages:
        yield stage
        yield from every(stage.parts)


def lstm_of(kind):
    """An LSTM, and its inputs."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 3), dtype=np.float32)
    if kind == "padded":
        model = torch.nn.LSTM(3, 4, bidirectional=True, batch_first=True)
        return model, {"x": x, "lengths": np.array([3, 1])}
    model = torch.nn.LSTM(3, 4, 2, proj_size=2, bidirectional=True)
    state = {
        "h_0": rng.standard_normal((4, 2, 2), dtype=np.float32),
        "c_0": rng.standard_normal((4, 2, 4), dtype=np.float32),
    }
    return model, {"x": x, **state}


def inside(kind):
    """Parameters and inner values of an LSTM, for cotangents of all that it returns."""
    torch.manual_seed(0)
    model, inputs = lstm_of(kind)
    held = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    rng = np.random.default_rng(1)
    out = model.proj_size or 4
    cells = 2 * model.num_layers
    shapes = {"output": (2, 3, 2 * out), "h_n": (cells, 2, out), "c_n": (cells, 2, 4)}
    cotangents = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return model, held, truth(held, inputs, cotangents)


@pytest.mark.parametrize(
    ("kind", "check"), [("padded", "forward"), ("padded", "gradients"), ("projected", "forward")]
)
def test_every_stage_of_a_right_lstm_is_right_alone(kind, check):
    model, held, values = inside(kind)
    candidate = fb.from_state_dict(model.state_dict(), time_major=not model.batch_first)
    stages = Stages(model, candidate, rows(candidate)).all()
    checked = [
        result
        for stage in every(stages)
        if (result := alone(stage, values, held, Place(check=check, dtype="float64"))) is not None
    ]
    assert [result.failure for result in checked] == [None] * len(checked)
    assert len(checked) >= 12


def test_the_states_before_each_step_are_those_after_the_last_one():
    _, _, inner = inside("padded")
    for cell, after, before in (("forward", 0, 1), ("reverse", 1, 0)):
        hidden = inner.values[f"lstm.layer0.{cell}.hidden"]
        start = inner.values[f"lstm.layer0.{cell}.before.hidden"]
        assert np.array_equal(start[0, before], hidden[0, after])
    # The second sequence has one step: both directions start there, from zeros.
    assert not inner.values["lstm.layer0.reverse.before.hidden"][1, 0].any()


def test_code_after_the_last_layer_is_a_stage_too(network):
    class Scaled(type(network.reference)):
        def forward(self, x):
            return 2 * super().forward(x)

    reference = Scaled(5, 4, 3)
    reference.load_state_dict(network.reference.state_dict())
    pair = pairs.of_modules(reference, network.candidate, {"x": network.x})
    first = compare_sides(pair, network.inputs, dtypes=["float64"]).first_divergence
    assert (first.check, first.explains) == ("forward", True)
    assert first.name == "output"
    assert "the second factor of a product is missing" in first.note


def test_a_stage_of_another_shape_is_placed(network):
    def steps_first(call, module, x, *rest, **options):  # as without batch_first
        y, (h_n, c_n) = call(jax.numpy.swapaxes(x, 0, 1))
        return jax.numpy.swapaxes(y, 0, 1), (h_n[:, : len(x)], c_n[:, : len(x)])

    with planting.calling(fb.LSTM, steps_first)():
        pair = pairs.of_modules(network.reference, network.candidate, {"x": network.x})
        first = compare_sides(pair, network.inputs, dtypes=["float64"]).first_divergence
    assert first.name == "lstm.layer0.forward.outputs"
    assert "the candidate has shape" in first.note


def test_a_pair_that_cannot_be_opened_is_not_explained(linear):
    pair = linear.pair(stage=lambda name, value: value + 1)
    first = compare_sides(pair, linear.inputs).first_divergence
    assert (first.check, first.explains) == ("forward", False)


@pytest.mark.parametrize("bits", rounding.SIGNIFICANT_BITS.values())
def test_rounding_is_that_of_the_format(bits):
    values = torch.from_numpy(np.random.default_rng(0).standard_normal(100))
    dtype = {8: torch.bfloat16, 11: torch.float16, 24: torch.float32}[bits]
    assert torch.equal(rounding.rounded(values, bits), values.to(dtype).double())


def test_an_optimizer_is_stepped_on_given_gradients(network):
    pair = network.pair
    slopes = [pair.reference.gradients(pair.reference.parameters, network.inputs, "float64")]
    for side in (pair.reference, pair.candidate):
        (step,) = side.update(side.parameters, slopes, ADAMW, "float64")
        trained, *_ = side.train(side.parameters, [network.inputs], ADAMW, "float64")
        for name, array in trained.parameters.items():
            np.testing.assert_allclose(step.parameters[name], array, rtol=0, atol=1e-12)


@pytest.fixture
def linears():
    """A Linear, and its port that holds the same."""
    reference = torch.nn.Linear(4, 3)
    port = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    fb.load_state_dict(port, reference.state_dict())
    return reference, port


def first_of(reference, port, **options):
    x = np.random.default_rng(0).standard_normal((2, 4), dtype=np.float32)
    options = {"training_steps": 0} | options
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return parity.check(reference, port, x, dtypes=["float64"], **options).first_divergence


class Frozen(nnx.Variable):
    """What no optimizer is given."""


def test_a_parameter_frozen_on_one_side_is_said_to_be(linears):
    reference, port = linears
    port.kernel = Frozen(port.kernel[...])
    first = first_of(reference, port)
    assert first.name == "weight"
    assert "the candidate has None, as of what is never used, or frozen" in first.note
    reference, port = torch.nn.Linear(4, 3), nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    fb.load_state_dict(port, reference.state_dict())
    reference.weight.requires_grad_(False)
    first = first_of(reference, port)
    assert first.name == "weight"
    assert "the reference never trains it" in first.note


def test_what_an_optimizer_leaves_out_is_said_to_be_frozen(linears):
    half = optax.multi_transform(
        {"all": optax.sgd(0.01), "none": optax.set_to_zero()},
        lambda tree: jax.tree_util.tree_map_with_path(
            lambda path, _: "none" if "bias" in jax.tree_util.keystr(path) else "all", tree
        ),
    )
    first = first_of(*linears, training_steps=2, optimizers=[replace(SGD, optax=half)])
    assert (first.name, "never changes it" in first.note) == ("bias", True)


def test_zeros_of_another_sign_are_not_called_zero(linears):
    reference, port = linears
    with torch.no_grad():
        reference.bias.zero_()
    port.bias[...] = -jnp.zeros(3)
    note = first_of(reference, port).note
    assert "only the sign of zero" in note
    assert "it is zero" not in note


def test_an_lstm_whose_input_is_not_known_is_not_opened():
    """It may be in another layout, or that of another call."""
    theirs, ours = torch.nn.LSTM(3, 2, batch_first=True), fb.LSTM(3, 2, rngs=nnx.Rngs(0))
    fb.load_state_dict(ours, theirs.state_dict())
    inputs = {"x": np.ones((2, 4, 3), np.float32)}
    pair = of_modules(theirs, ours, inputs)
    parameters = pair.reference.parameters
    values = dict(pair.reference.forward(parameters, inputs, "float64"))
    row = Row(name="lstm.output", check="forward", dtype="float64", passed=False)
    del values["lstm.input"]
    assert localiser.locate(pair, "", parameters, inputs, values, {}, row) is None
