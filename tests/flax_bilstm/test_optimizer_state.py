"""Training goes on in optax where it stopped in PyTorch; the judge is PyTorch, going on itself."""

import contextlib
import copy
import functools
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

pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")

BEFORE, AFTER = 12, 50
rng = np.random.default_rng(0)
X = rng.standard_normal((BEFORE + AFTER, 4, 5, 3))
Y = rng.standard_normal((BEFORE + AFTER, 4, 2))

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


def torch_steps(model: Any, optimizer: Any, steps: range) -> None:
    for i in steps:
        optimizer.zero_grad()
        output = model(torch.tensor(X[i], dtype=model.fc.weight.dtype))
        target = torch.tensor(Y[i], dtype=model.fc.weight.dtype)
        torch.nn.functional.mse_loss(output, target).backward()
        optimizer.step()


@nnx.jit
def jax_step(model: Any, optimizer: nnx.Optimizer, x: Any, y: Any) -> None:
    gradients = nnx.grad(lambda model: jnp.mean((model(x) - y) ** 2))(model)
    optimizer.update(model, gradients)


def trained(
    make: Callable[[Any], Any], steps: int = BEFORE, dtype: Any = torch.float64
) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = torch_ref.BiLSTMWithAttention(3, 4, 2).to(dtype)
    optimizer = make(model.parameters())
    torch_steps(model, optimizer, range(steps))
    return model, optimizer


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


@functools.cache
def adam_state() -> dict[str, Any]:
    _, optimizer = trained(lambda p: optim.Adam(p, weight_decay=0.1), steps=2)
    return optimizer.state_dict()


def edited(edit: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Adam's state dict after a few steps, with one thing made wrong."""
    state_dict = copy.deepcopy(adam_state())
    edit(state_dict)
    return state_dict


REFUSED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "has no equal in optax": lambda s: s["param_groups"][0].update(amsgrad=True),
    "maximize=True has no equal": lambda s: s["param_groups"][0].update(maximize=True),
    "of Adam or of AdamW": lambda s: s["param_groups"][0].pop("decoupled_weight_decay"),
    "each parameter in one group": lambda s: s["param_groups"].append(s["param_groups"][0]),
    "the names in the order of the groups": lambda s: s["param_groups"].append(
        s["param_groups"][0] | {"params": [99]}
    ),
    "at least 1 parameter group, got 0": lambda s: s.pop("param_groups"),
    "missing: exp_avg_sq of fc.bias": lambda s: s["state"][11].pop("exp_avg_sq"),
    "set by a scheduler": lambda s: s["param_groups"][0].update(initial_lr=0.1),
    "expected a mapping from parameters": lambda s: s.update(state=[1, 2]),
    "lr of group 0: expected a finite number of at least 0, got nan": lambda s: s["param_groups"][
        0
    ].update(lr=float("nan")),
    r"betas of group 0: expected two numbers in \[0, 1\)": lambda s: s["param_groups"][0].update(
        betas=0.9
    ),
    "step of parameter 11: expected a whole number": lambda s: s["state"][11].update(
        step=torch.ones(2)
    ),
    "state for 77, in no group": lambda s: s["state"].update({77: {}}),
    r"exp_avg of fc.bias: expected \(2,\) float64": lambda s: s["state"][11].update(
        exp_avg=torch.zeros(3, dtype=torch.float64)
    ),
    "not finite: exp_avg of fc.bias": lambda s: s["state"][11]["exp_avg"].fill_(float("nan")),
    "unexpected: state for attention.attn.weight": lambda s: s["state"].update({8: s["state"][10]}),
    "unexpected: max_exp_avg_sq of fc.bias": lambda s: s["state"][11].update(
        max_exp_avg_sq=torch.zeros(2)
    ),
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_does_not_fit_is_refused(says: str) -> None:
    state_dict = edited(REFUSED[says])
    model = fb.BiLSTMWithAttention(3, 4, 2, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=says):
        fb.optimizer_from_torch(model, state_dict)


def test_the_recorded_kind_of_weight_decay_is_enough() -> None:
    """Older PyTorch records less; the message says what to add."""
    for decoupled, name in {True: "optax.adamw(", False: "optax.chain("}.items():
        state_dict = edited(
            lambda s, d=decoupled: s["param_groups"][0].update(decoupled_weight_decay=d)
        )
        assert describe(state_dict).startswith(name)


@pytest.mark.parametrize("kind", ["Adagrad", "NAdam", "RAdam", "Adamax", "Rprop"])
def test_another_optimizer_is_refused(kind: str) -> None:
    _, optimizer = trained(getattr(optim, kind), steps=1)
    model = fb.BiLSTMWithAttention(3, 4, 2, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match=r"Adam, AdamW, SGD, RMSprop or Adadelta|no equal|cannot be carried"
    ):
        fb.optimizer_from_torch(model, optimizer.state_dict())


def test_dampening_is_refused() -> None:
    _, optimizer = trained(lambda p: optim.SGD(p, 0.1, momentum=0.9, dampening=0.1), steps=1)
    model = fb.BiLSTMWithAttention(3, 4, 2, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"dampening=0\.1 has no equal"):
        fb.optimizer_from_torch(model, optimizer.state_dict())


class _OurError(Exception):
    """A ValueError that says what is wrong with the optimizer's state."""


def _as_ours(take: Callable[[Any], Any], state_dict: Any) -> None:
    try:
        take(state_dict)
    except ValueError as error:
        if not str(error).startswith("optimizer: "):
            raise
        raise _OurError from error


class _Object:
    """Nothing that an optimizer keeps."""


MALFORMED = (
    *(None, "x", b"x", -1, 2**70, float("nan"), float("inf"), complex(1, 1)),
    *([], {}, (), [1], [[1]], {1: 2}, {"a": 1}, set(), range(3), float, _Object()),
    *(np.array("x"), np.array([None]), np.zeros(3), np.datetime64("2020-01-01")),
    *(torch.zeros(0), torch.zeros(2), torch.tensor(1 + 1j), torch.tensor(True)),
    *(torch.zeros(2).to_sparse(), torch.zeros(2, device="meta")),
    *(torch.zeros(2, dtype=torch.float8_e4m3fn), torch.tensor(float("nan"))),
)


def paths_in(node: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    if isinstance(node, (dict, list)):
        for key, inside in node.items() if isinstance(node, dict) else enumerate(node):
            if path != ("state",) or key == 11:  # one parameter stands for all
                yield from paths_in(inside, (*path, key))


def replaced(node: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    node = copy.copy(node)
    node[path[0]] = replaced(node[path[0]], path[1:], value)
    return node


@pytest.mark.parametrize("path", [p for p in paths_in(adam_state()) if p], ids=str)
def test_a_malformed_state_is_one_error_of_ours_or_does_no_harm(path: tuple[Any, ...]) -> None:
    model = fb.BiLSTMWithAttention(3, 4, 2, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    for value in MALFORMED:
        state_dict = replaced(adam_state(), path, value)
        for take in (functools.partial(fb.optimizer_from_torch, model), describe):
            with contextlib.suppress(_OurError):
                _as_ours(take, state_dict)


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


class Stacked(nnx.Module):
    """Two layers that `nnx.vmap` stacked: each of their variables is two tensors."""

    def __init__(self) -> None:
        @nnx.split_rngs(splits=2)
        @nnx.vmap
        def make(rngs: nnx.Rngs) -> nnx.Linear:
            return nnx.Linear(3, 3, param_dtype=jnp.float64, rngs=rngs)

        self.layers = make(nnx.Rngs(0))


@pytest.mark.parametrize(
    "frozen",
    [
        pytest.param(lambda first: [], id="not in the optimizer"),
        pytest.param(lambda first: [{"params": first, "lr": 0.5}], id="in another group"),
    ],
)
def test_stacked_layers_that_are_not_stepped_alike_are_refused(frozen: Any) -> None:
    layers = torch.nn.ModuleDict(
        {"layers": torch.nn.ModuleList([torch.nn.Linear(3, 3).double() for _ in range(2)])}
    )
    named = list(layers.named_parameters())
    groups = [{"params": named[2:]}, *frozen(named[:2])]
    torch_optimizer = optim.SGD(groups, lr=0.1)
    model = Stacked()
    fb.load_state_dict(model, layers.state_dict())
    with pytest.raises(ValueError, match=r"layers\.kernel is one variable for all of them"):
        fb.optimizer_from_torch(model, torch_optimizer.state_dict())


def test_moments_of_a_sum_are_refused() -> None:
    """One bias for torch's two: their moments are not the sum's."""
    cell = torch.nn.LSTMCell(3, 4).double()
    torch_optimizer = optim.Adam(cell.named_parameters())
    cell(torch.ones(2, 3, dtype=torch.float64))[0].sum().backward()
    torch_optimizer.step()
    model = nnx.Dict(cell=nnx.OptimizedLSTMCell(3, 4, param_dtype=jnp.float64, rngs=nnx.Rngs(0)))
    names = {"cell": fb.SummedBiases("")}
    fb.load_state_dict(model, cell.state_dict(), names=names)
    with pytest.raises(ValueError, match="bias_ih, bias_hh: its moments are not those"):
        fb.optimizer_from_torch(model, torch_optimizer.state_dict(), names=names)
