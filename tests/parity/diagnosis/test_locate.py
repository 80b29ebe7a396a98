import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import flax_bilstm as fb
from flax_bilstm.conversion.rows import rows
from parity.compare import compare_sides
from parity.diagnosis.lstm.stages import Stages
from parity.diagnosis.lstm.truth import truth
from parity.diagnosis.mistakes import rounding
from parity.diagnosis.stages import alone
from parity.selftest import planting
from parity.sides import pair as pairs
from parity.sides.optimizers import ADAMW


@pytest.fixture(autouse=True)
def operation_by_operation(quickly_compiled):
    """Operations are compiled once for all stages; whole stages would be compiled one by one."""
    with jax.disable_jit():
        yield


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
        if (result := alone(stage, check, values, held, "float64", case="")) is not None
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
    assert first.check == "first wrong stage, forward"
    assert first.name == "output"
    assert "it is fc;" in first.note


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
    assert compare_sides(pair, linear.inputs).first_divergence.check == "forward"


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
