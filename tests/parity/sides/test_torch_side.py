import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity.sides import optimizers
from parity.sides.losses import CROSS_ENTROPY
from parity.sides.optimizers import ADAM, MOMENTUM
from parity.sides.torch_side import TorchSide


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 3)
        self.spare = torch.nn.Parameter(torch.ones(2))
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.linear(x))


INPUTS = {"x": np.full((4, 2), 0.5), "target": np.zeros((4, 3))}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


@pytest.fixture
def side(model):
    return TorchSide(model)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_forward_runs_in_the_dtype_and_without_dropout(side, dtype):
    output = side.forward(side.parameters, INPUTS, dtype)["output"]
    assert output.dtype == dtype
    expected = INPUTS["x"] @ side.parameters["linear.weight"].T + side.parameters["linear.bias"]
    np.testing.assert_allclose(output, expected, rtol=1e-6)


def test_gradients_in_backward_order_none_for_the_unused(side):
    found = side.gradients(side.parameters, INPUTS, "float64")
    assert list(found) == ["linear.bias", "linear.weight", "spare", "x"]
    assert found["spare"] is None
    output = side.forward(side.parameters, INPUTS, "float64")["output"]
    np.testing.assert_allclose(found["linear.bias"], 2 * output.sum(axis=0) / 12, rtol=1e-12)


def test_the_model_is_left_alone_and_so_are_steps_that_are_kept(model, side):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    steps = side.train(side.parameters, [INPUTS, INPUTS], ADAM, "float32")
    first, second = (step.kept() for step in steps)
    assert model.training
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert not np.array_equal(first.parameters["linear.bias"], second.parameters["linear.bias"])
    assert first.moments["spare.exp_avg"] is None


def test_losses_and_moments(side):
    (step,) = side.train(side.parameters, [INPUTS], MOMENTUM, "float64")
    output = side.forward(side.parameters, INPUTS, "float64")["output"]
    gradient = side.gradients(side.parameters, INPUTS, "float64")["linear.weight"]
    np.testing.assert_allclose(step.loss, np.mean(output**2), rtol=1e-12)
    np.testing.assert_allclose(step.moments["linear.weight.momentum_buffer"], gradient, rtol=1e-12)


def test_integer_targets_stay_integers(model):
    side = TorchSide(model, loss=CROSS_ENTROPY)
    inputs = {"x": INPUTS["x"], "target": np.array([0, 1, 2, 0])}
    assert side.gradients(side.parameters, inputs, "float32")["x"].shape == (4, 2)


def test_a_bfloat16_model_hands_over_exact_values(model):
    side = TorchSide(model.to(torch.bfloat16))
    assert side.parameters["spare"].dtype == jnp.bfloat16
    exact = torch.from_numpy(side.parameters["linear.weight"].astype(np.float32))
    assert torch.equal(exact, model.linear.weight.float())
    assert side.forward(side.parameters, INPUTS, "bfloat16")["output"].dtype == jnp.bfloat16
    assert side.forward(side.parameters, INPUTS, "float64")["output"].dtype == np.float64


def test_a_buffer_has_no_moment_in_training():
    model = torch.nn.Linear(2, 1)
    model.register_buffer("offset", torch.ones(1))
    side = TorchSide(model)
    batch = {"x": np.ones((3, 2)), "target": np.zeros((3, 1))}
    (step,) = side.train(side.parameters, [batch], optimizers.MOMENTUM, "float64")
    assert step.moments["offset.momentum_buffer"] is None
    assert step.moments["weight.momentum_buffer"] is not None
