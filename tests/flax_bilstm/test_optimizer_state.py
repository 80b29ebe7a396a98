"""Training goes on in optax where it stopped in PyTorch; the judge is PyTorch, going on itself."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm.conversion.optimizer import describe

torch = pytest.importorskip("torch")
torch_ref = pytest.importorskip("torch_ref")

from .pytorch_training import AFTER, BEFORE, X, Y, torch_steps, trained

pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")

optim = torch.optim
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "optax.adam(learning_rate=0.01, b1=0.9, b2=0.999, eps=1e-08)": lambda p: optim.Adam(p, 0.01),
    "optax.chain(optax.add_decayed_weights(weight_decay=0.1), "
    "optax.adam(learning_rate=0.01, b1=0.8, b2=0.99, eps=1e-06))": lambda p: optim.Adam(
        p, 0.01, (0.8, 0.99), 1e-6, weight_decay=0.1
    ),
    "optax.adamw(learning_rate=0.01, b1=0.9, b2=0.999, eps=1e-08, weight_decay=0.1)": lambda p: (
        optim.AdamW(p, 0.01, weight_decay=0.1)
    ),
    "optax.sgd(learning_rate=0.1)": lambda p: optim.SGD(p, 0.1),
    "optax.chain(optax.add_decayed_weights(weight_decay=0.1), "
    "optax.sgd(learning_rate=0.1, momentum=0.9))": lambda p: optim.SGD(
        p, 0.1, momentum=0.9, weight_decay=0.1
    ),
    "optax.sgd(learning_rate=0.1, momentum=0.9, nesterov=True)": lambda p: optim.SGD(
        p, 0.1, momentum=0.9, nesterov=True
    ),
}


OPTIMIZERS |= {
    "optax.rmsprop(learning_rate=0.01, decay=0.99, eps=1e-08, eps_in_sqrt=False)": lambda p: (
        optim.RMSprop(p, 0.01)
    ),
    "optax.chain(optax.add_decayed_weights(weight_decay=0.1), optax.rmsprop(learning_rate=0.01, "
    "decay=0.9, eps=1e-06, eps_in_sqrt=False, centered=True))": lambda p: optim.RMSprop(
        p, 0.01, 0.9, 1e-6, weight_decay=0.1, centered=True
    ),
    "optax.chain(optax.add_decayed_weights(weight_decay=0.1), "
    "optax.adadelta(learning_rate=0.5, rho=0.8, eps=1e-06))": lambda p: optim.Adadelta(
        p, 0.5, 0.8, weight_decay=0.1
    ),
}


@nnx.jit
def jax_step(model: Any, optimizer: nnx.Optimizer, x: Any, y: Any) -> None:
    gradients = nnx.grad(lambda model: jnp.mean((model(x) - y) ** 2))(model)
    optimizer.update(model, gradients)


@pytest.mark.parametrize(
    ("equal", "steps"),
    [
        *((equal, BEFORE) for equal in OPTIMIZERS),
        *((equal, 0) for equal in OPTIMIZERS if equal.startswith(("optax.adam(", "optax.sgd("))),
    ],
)
def test_the_next_50_steps_are_pytorchs(equal: str, steps: int) -> None:
    torch_model, torch_optimizer = trained(OPTIMIZERS[equal], steps)
    model = fb.from_state_dict(torch_model.state_dict())
    optimizer = fb.optimizer_from_torch(model, torch_optimizer.state_dict())
    assert describe(torch_optimizer.state_dict()) == equal
    assert optimizer.step[...] == (0 if "optax.sgd" in equal else steps)  # SGD counts none
    unused = fb.state_dict(model)["attention.attn.weight"].copy()
    torch_steps(torch_model, torch_optimizer, range(steps, steps + AFTER))
    for i in range(steps, steps + AFTER):
        jax_step(model, optimizer, X[i], Y[i])
    got = fb.state_dict(model)
    for name, expected in torch_model.state_dict().items():
        np.testing.assert_allclose(got[name], expected.numpy(), rtol=0, atol=1e-10)
    np.testing.assert_array_equal(got["attention.attn.weight"], unused)


def test_without_the_state_the_steps_are_others() -> None:
    """So the test above can fail."""
    torch_model, torch_optimizer = trained(OPTIMIZERS[next(iter(OPTIMIZERS))])
    model = fb.from_state_dict(torch_model.state_dict())
    fresh = torch_optimizer.state_dict() | {"state": {}}
    optimizer = fb.optimizer_from_torch(model, fresh)
    torch_steps(torch_model, torch_optimizer, range(BEFORE, BEFORE + 1))
    jax_step(model, optimizer, X[BEFORE], Y[BEFORE])
    difference = fb.state_dict(model)["fc.bias"] - torch_model.fc.bias.detach().numpy()
    assert np.abs(difference).max() > 1e-4


def test_training_pytorch_on_moves_neither_model_nor_moments() -> None:
    torch_model, torch_optimizer = trained(optim.Adam)
    model = fb.from_state_dict(torch_model.state_dict())
    optimizer = fb.optimizer_from_torch(model, torch_optimizer.state_dict())
    live = jax.tree.leaves((nnx.state(model), nnx.state(optimizer)))
    before = [np.array(array) for array in live]
    torch_steps(torch_model, torch_optimizer, range(3))
    for array, expected in zip(live, before, strict=True):
        np.testing.assert_array_equal(array, expected)


def test_float32_moments_keep_every_bit() -> None:
    torch_model, torch_optimizer = trained(optim.Adam, dtype=torch.float32)
    model = fb.from_state_dict(torch_model.state_dict())
    optimizer = fb.optimizer_from_torch(model, torch_optimizer.state_dict())
    for parameter, kernel in {
        torch_model.fc.weight: optimizer.opt_state[0].mu["fc"]["kernel"],
        torch_model.lstm.weight_ih_l0_reverse: optimizer.opt_state[0].mu["lstm"]["layers"][0][
            "reverse"
        ]["kernel_ih"],
    }.items():
        moment = torch_optimizer.state[parameter]["exp_avg"].numpy()
        np.testing.assert_array_equal(kernel[...].T, moment, strict=True)


def test_parameters_of_a_larger_network_are_told_apart() -> None:
    torch.manual_seed(0)
    inner = torch_ref.BiLSTMWithAttention(3, 4, 2).double()
    larger = torch.nn.Sequential(torch.nn.Linear(3, 3).double(), inner)
    torch_optimizer = optim.Adam(larger.parameters())
    larger(torch.tensor(X[0])).sum().backward()
    torch_optimizer.step()
    model = fb.from_state_dict(inner.state_dict())
    with pytest.raises(ValueError, match="12 parameters, as many as there are names, got 14"):
        fb.optimizer_from_torch(model, torch_optimizer.state_dict())
    names = (None, None, *inner.state_dict())
    optimizer = fb.optimizer_from_torch(model, torch_optimizer.state_dict(), names)
    expected = torch_optimizer.state[inner.fc.bias]["exp_avg"].numpy()
    np.testing.assert_array_equal(optimizer.opt_state[0].mu["fc"]["bias"][...], expected)


def test_a_group_that_keeps_no_moments_is_stepped_beside_one_that_does() -> None:
    torch.manual_seed(0)
    torch_model = torch_ref.BiLSTMWithAttention(3, 4, 2).double()
    named = list(torch_model.named_parameters())
    heavy = [pair for pair in named if pair[0].startswith("lstm")]
    light = [pair for pair in named if not pair[0].startswith("lstm")]
    torch_optimizer = optim.SGD(
        [{"params": heavy, "momentum": 0.9}, {"params": light, "momentum": 0.0}], lr=0.1
    )
    torch_steps(torch_model, torch_optimizer, range(BEFORE))
    model = fb.from_state_dict(torch_model.state_dict())
    optimizer = fb.optimizer_from_torch(model, torch_optimizer.state_dict())
    torch_steps(torch_model, torch_optimizer, range(BEFORE, BEFORE + 5))
    for i in range(BEFORE, BEFORE + 5):
        jax_step(model, optimizer, X[i], Y[i])
    got = fb.state_dict(model)
    for name, expected in torch_model.state_dict().items():
        np.testing.assert_allclose(got[name], expected.numpy(), rtol=0, atol=1e-10)
