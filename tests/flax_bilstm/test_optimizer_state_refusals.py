"""What has no equivalent in optax, or is no optimizer's state, is refused in words."""

import contextlib
import copy
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm.conversion.optimizer import describe
from flax_bilstm.conversion.order import in_the_models_names

torch = pytest.importorskip("torch")
pytest.importorskip("torch_ref")

from .pytorch_training import trained

pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")

optim = torch.optim


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
    "has no equivalent in optax": lambda s: s["param_groups"][0].update(amsgrad=True),
    "maximize=True has no equivalent": lambda s: s["param_groups"][0].update(maximize=True),
    "can be Adam's or AdamW's": lambda s: s["param_groups"][0].pop("decoupled_weight_decay"),
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
    with pytest.raises(ValueError, match=r"dampening=0\.1 has no equivalent"):
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


ODD_NAMES = [
    ["a\x1b[31m", "line\nbreak", *("x" * 10_000 for _ in range(10))],
    [{}, [], None, 2**70, *"abcdefgh"],
]


@pytest.mark.parametrize("names", ODD_NAMES, ids=["escapes", "no strings"])
def test_names_in_a_state_are_shown_escaped_and_not_whole(names: list[Any]) -> None:
    state_dict = edited(lambda s: s["param_groups"][0].update(param_names=names))
    model = fb.BiLSTMWithAttention(3, 4, 2, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    renamed = dict.fromkeys(["fc.bias"])
    with pytest.raises(ValueError, match="optimizer: expected") as info:
        fb.optimizer_from_torch(model, in_the_models_names(state_dict, renamed))
    assert str(info.value).isprintable()
    assert len(str(info.value)) < 3_000


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("lr", "\x1b[31m" + "x" * 10**6),
        ("betas", [[0] * 10**6] * 2),
        ("eps", 10**5_000),
        ("an option \x1b[31m" + "x" * 10**5, 1),
    ],
    ids=["text", "lists", "a number", "a name"],
)
def test_values_in_a_state_are_shown_escaped_and_not_whole(where: str, value: Any) -> None:
    state_dict = edited(lambda s: s["param_groups"][0].update({where: value}))
    if where.startswith("an option"):
        del state_dict["param_groups"][0]["lr"]
    with pytest.raises(ValueError, match="optimizer: ") as info:
        describe(state_dict)
    assert all(line.isprintable() for line in str(info.value).splitlines())
    assert len(str(info.value)) < 3_000


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
