import dataclasses

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import flax_bilstm as fb
import torch_ref
from parity import bilstm, harness
from parity.bilstm_stages import anatomy
from parity.bilstm_truth import truth
from parity.losses import MEAN_SQUARED_ERROR
from parity.mistakes import arrays
from parity.mutations import planting
from parity.stages import alone


@pytest.fixture(autouse=True)
def operation_by_operation(quickly_compiled):
    """Operations are compiled once for all stages; whole stages would be compiled one by one."""
    with jax.disable_jit():
        yield


def every(stages):
    for stage in stages:
        yield stage
        yield from every(stage.parts)


def inputs_of(kind):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 3), dtype=np.float32)
    if kind == "lstm":
        model = torch.nn.LSTM(3, 4, proj_size=2, bidirectional=True, batch_first=True)
        state = {
            "h_0": rng.standard_normal((2, 2, 2), dtype=np.float32),
            "c_0": rng.standard_normal((2, 2, 4), dtype=np.float32),
        }
        target = rng.standard_normal(2 * 3 * 4 + 2 * 2 * 6, dtype=np.float32)
        return model, {"x": x, "target": target, **state}
    model = torch_ref.BiLSTMWithAttention(3, 4, 2)
    target = rng.standard_normal((2, 2), dtype=np.float32)
    return model, {"x": x, "target": target, "lengths": np.array([3, 1])}


@pytest.mark.parametrize(
    ("kind", "check"), [("padded", "forward"), ("padded", "gradients"), ("lstm", "forward")]
)
def test_every_stage_of_a_right_model_is_right_alone(kind, check):
    torch.manual_seed(0)
    model, inputs = inputs_of(kind)
    found = anatomy(model, fb.from_state_dict(model.state_dict()), MEAN_SQUARED_ERROR)
    held = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    values = found.truth(held, inputs)
    checked = [
        result
        for stage in every(found.stages)
        if (result := alone(stage, check, values, held, "float64", case="")) is not None
    ]
    assert [result.failure for result in checked] == [None] * len(checked)
    assert len(checked) >= 12


def test_the_states_before_each_step_are_those_after_the_last_one():
    torch.manual_seed(0)
    model, inputs = inputs_of("padded")
    held = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    values = truth(held, inputs, MEAN_SQUARED_ERROR).values
    for cell, after, before in (("forward", 0, 1), ("reverse", 1, 0)):
        hidden = values[f"lstm.layer0.{cell}.hidden"]
        start = values[f"lstm.layer0.{cell}.before.hidden"]
        assert np.array_equal(start[0, before], hidden[0, after])
    # The second sequence has one step: both directions start there, from zeros.
    assert not values["lstm.layer0.reverse.before.hidden"][1, 0].any()


def test_a_reference_that_is_another_network_is_not_explained(network):
    class Scaled(type(network.reference)):
        def forward(self, x):
            return 2 * super().forward(x)

    reference = Scaled(5, 4, 3)
    reference.load_state_dict(network.reference.state_dict())
    report = harness.compare(
        bilstm.port(reference, network.candidate), network.inputs, dtypes=["float64"]
    )
    assert report.first_divergence.check == "forward"
    assert report.first_divergence.name == "output"


def test_a_stage_of_another_shape_is_placed(network):
    def steps_first(call, module, x, *rest, **options):  # as without batch_first
        y, (h_n, c_n) = call(jax.numpy.swapaxes(x, 0, 1))
        return jax.numpy.swapaxes(y, 0, 1), (h_n[:, : len(x)], c_n[:, : len(x)])

    with planting.calling(fb.LSTM, steps_first)():
        port = bilstm.port(network.reference, network.candidate)
        first = harness.compare(port, network.inputs, dtypes=["float64"]).first_divergence
    assert first.name == "lstm.layer0.forward.outputs"
    assert "the candidate has shape" in first.note


def test_a_port_without_stages_is_not_explained(linear):
    port = linear.port(stage=lambda name, value: value + 1)
    assert harness.compare(port, linear.inputs).first_divergence.check == "forward"


@pytest.mark.parametrize("bits", arrays.SIGNIFICANT_BITS.values())
def test_rounding_is_that_of_the_format(bits):
    values = np.random.default_rng(0).standard_normal(100)
    dtype = {8: torch.bfloat16, 11: torch.float16, 24: torch.float32}[bits]
    expected = torch.from_numpy(values).to(dtype).double().numpy()
    assert np.array_equal(arrays.rounded(values, bits), expected)


def test_an_optimizer_is_stepped_on_given_gradients(network):
    from parity.optimizers import ADAMW

    port = network.port
    slopes = [port.reference.gradients(port.reference.parameters, network.inputs, "float64")]
    for side in (port.reference, port.candidate):
        (step,) = side.update(side.parameters, slopes, ADAMW, "float64")
        trained, *_ = side.train(side.parameters, [network.inputs], ADAMW, "float64")
        for name, array in trained.parameters.items():
            np.testing.assert_allclose(step.parameters[name], array, rtol=0, atol=1e-12)
    assert dataclasses.is_dataclass(step)
