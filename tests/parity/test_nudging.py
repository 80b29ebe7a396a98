import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from parity import nudging
from parity.nudging import ELEMENTARY, Nudged, moved_functions, nudged
from parity.sides import optimizers
from parity.sides.side import TARGET
from parity.sides.torch_side import TorchSide
from parity.tolerances import MORE_NUDGES, TOLERANCES, epsilon

X = torch.linspace(-3, 3, 601, dtype=torch.float64)


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_a_nudge_moves_everything_by_one_ulp_up_or_down(dtype):
    array = np.random.default_rng(1).standard_normal(3000).astype(jnp.bfloat16)
    moved = nudged({"w": array}, dtype, seed=0)["w"]
    assert moved.dtype == dtype
    relative = np.abs(moved.astype(np.float64) / array.astype(np.float64) - 1)
    assert relative.max() <= 1.5 * epsilon(dtype)
    whole = (array == np.rint(array)) & (np.abs(array) * epsilon(dtype) <= 0.01)
    np.testing.assert_array_equal((moved != array)[~whole], True)
    np.testing.assert_array_equal((moved != array)[whole & (array <= 1)], False)
    assert np.all((moved >= array)[whole])
    assert 0.4 < np.mean(moved > array) < 0.6


def test_nudges_depend_on_the_seed_alone_and_leave_whole_numbers_and_what_is_not_there():
    arrays = {"w": np.array([0.0, 1.5, -2.5, 3.5, 5.0]), "classes": np.array([1, 2]), "g": None}
    first, again, other = (nudged(arrays, "float64", seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first["w"], again["w"])
    assert not np.array_equal(first["w"], other["w"])
    assert first["w"][0] == 0
    np.testing.assert_array_equal(first["classes"], [1, 2])
    assert list(first) == ["w", "classes", "g"]
    assert first["g"] is None


@pytest.mark.parametrize("name", sorted(ELEMENTARY))
def test_every_name_is_one_of_torch_operators(name):
    assert hasattr(torch.ops.aten, name) or hasattr(torch.ops.aten, f"_{name}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "function",
    [
        torch.sigmoid, torch.tanh, torch.exp, torch.erf, torch.nn.functional.silu,
        lambda x: torch.softmax(x, 0), lambda x: torch.log_softmax(x, 0),
        torch.nn.functional.logsigmoid, lambda x: torch.nn.functional.layer_norm(x, x.shape),
        lambda x: x.clone().sigmoid_(), lambda x: (x.abs() + 1) ** 1.5,
        lambda x: torch.ops.aten.sigmoid_backward(x, torch.full_like(x, 0.3)),
    ],
)  # fmt: skip
def test_elementary_functions_move_by_one_ulp_of_their_value(function, dtype):
    x = X.to(dtype)
    plain = function(x).double()
    with moved_functions(str(dtype).removeprefix("torch."), 0):
        moved = function(x).double()
    relative = ((moved - plain).abs() / plain.abs().clamp(min=1e-300)).numpy()
    assert relative.max() <= 2 * torch.finfo(dtype).eps  # powers may take two functions
    assert np.mean(relative > 0) > 0.4


def test_functions_move_by_the_seed():
    def run(seed):
        with moved_functions("float64", seed):
            return torch.tanh(X)

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_every_other_run_has_zero_for_what_is_below_the_smallest_normal_number():
    denormal = torch.tensor([1e-40])
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor cannot")
    with moved_functions("float32", 0):
        assert (denormal * 0.5).item() > 0
    with moved_functions("float32", 1):
        assert (denormal * 0.5).item() == 0
    assert (denormal * 0.5).item() > 0


def test_operations_do_not_go_through_the_wrapper_of_torch_dynamo():
    """It takes longer than a small operation."""
    assert nudging._ElementaryFunctions.__torch_dispatch__ is nudging._Moving.__torch_dispatch__
    assert not hasattr(nudging._Moving.__torch_dispatch__, "__wrapped__")


def test_sums_products_and_copies_stay_as_they_are():
    def arithmetic():
        y = (X[:600].reshape(20, 30) @ X[:600].reshape(30, 20)).sum(0) * 3 - X[:20] / 7
        return torch.cat([y, y.flip(0)]).sqrt().nan_to_num()

    plain = arithmetic()
    with moved_functions("float64", 0):
        assert torch.equal(arithmetic(), plain)


def test_a_derivative_sees_the_moved_value():
    """1 − tanh² is 0 in every plain run where tanh is 1: what it is worth shows only here."""

    def slope():
        x = torch.full((100,), 30.0, requires_grad=True)
        torch.tanh(x).sum().backward()
        return x.grad.abs().max()

    assert slope() == 0
    with moved_functions("float32", 0):
        assert 0 < slope() <= 2.1 * epsilon("float32")


def test_in_bfloat16_a_value_moves_to_its_neighbour_unless_its_function_is_saturated():
    def run():
        return torch.sigmoid(torch.tensor([4.46875, 9.0] * 50, dtype=torch.bfloat16)).double()

    plain = run()[:2]
    with moved_functions("bfloat16", 0):
        moved = run()
    ulp = 2**-8  # between 0.5 and 1
    assert set(moved[::2].tolist()) == {plain[0].item() - ulp, plain[0].item() + ulp}
    assert set(moved[1::2].tolist()) == {1.0}


@pytest.mark.parametrize(("dtype", "seed"), [*((d, 0) for d in TOLERANCES), ("bfloat16", 1)])
def test_the_gates_inside_an_lstm_are_moved_and_onednn_is_put_back(dtype, seed):
    lstm = torch.nn.LSTM(3, 4, dtype=getattr(torch, dtype))
    x = torch.ones(5, 2, 3, dtype=lstm.weight_ih_l0.dtype)
    before, *_ = torch.backends.mkldnn.set_flags(True)
    with moved_functions(dtype, seed), torch.no_grad():
        first, second = lstm(x)[0], lstm(x)[0]
    whole = (dtype, seed) == ("bfloat16", 0) and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert torch.equal(first, second) == whole  # see there
    assert torch.backends.mkldnn.enabled
    with pytest.raises(ZeroDivisionError), moved_functions(dtype, 0):
        raise ZeroDivisionError
    assert torch.backends.mkldnn.enabled
    torch.backends.mkldnn.set_flags(before)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = torch.nn.Linear(3, 2)

    def forward(self, x):
        return torch.tanh(self.fc(x))


@pytest.fixture
def side():
    return TorchSide(Model())


@pytest.fixture
def batches():
    rng = np.random.default_rng(0)
    return [
        {"x": rng.standard_normal((4, 3)), TARGET: rng.standard_normal((4, 2))} for _ in range(3)
    ]


@pytest.mark.parametrize("check", ["forward", "gradients"])
def test_a_nudged_side_differs_by_its_seed_and_by_rounding_only(side, batches, check):
    def run(side):
        values = getattr(side, check)(side.parameters, batches[0], "float64").values()
        return np.concatenate([value.ravel() for value in values])

    plain, first, again, other = map(run, (side, Nudged(side, 0), Nudged(side, 0), Nudged(side, 1)))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert 0 < np.abs(first - plain).max() < 100 * epsilon("float64") * np.abs(plain).max()


def test_nothing_is_moved_between_the_steps_of_a_nudged_training(side, batches):
    steps = Nudged(side, 0).train(side.parameters, batches, optimizers.ADAM, "float64")
    plain = torch.tanh(X)
    for _ in steps:
        assert torch.equal(torch.tanh(X), plain)


def test_every_step_of_a_nudged_update_starts_from_moved_gradients(side, batches):
    slopes = [side.gradients(side.parameters, batch, "float64") for batch in batches]

    def moments(side):
        steps = side.update(side.parameters, slopes, optimizers.ADAM, "float64")
        return [step.moments["fc.weight.exp_avg"] for step in steps]

    pairs = list(zip(moments(side), moments(Nudged(side, 0)), strict=True))
    assert len(pairs) == 3
    for plain, moved in pairs:
        assert 0 < np.abs(moved - plain).max() < 10 * epsilon("float64") * np.abs(plain).max()


def test_runs_are_the_side_itself_and_nudged_ones_that_differ(side, batches):
    sides = nudging.runs(side, "float64")
    assert sides[0] is side
    assert len(sides) == 1 + TOLERANCES["float64"].nudges
    outputs = [s.forward(s.parameters, batches[0], "float64")["output"] for s in sides]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(outputs, 2))


def test_every_round_of_nudged_sides_differs_from_the_others_and_the_first_is_quick(side, batches):
    rounds = nudging.rounds(side, "float64")
    nudges = TOLERANCES["float64"].nudges
    assert [len(r.sides) for r in rounds] == [1, 1 + nudges, MORE_NUDGES]
    outputs = [
        s.forward(s.parameters, batches[0], "float64")["output"] for r in rounds for s in r.sides
    ]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(outputs, 2))
    functions = [s.functions for r in rounds for s in r.sides]
    assert functions == [False, False, *[True] * (nudges + MORE_NUDGES)]


def test_a_side_with_its_functions_left_alone_moves_its_data(side, batches):
    quick = Nudged(side, 0, functions=False)
    given = nudged(side.parameters, "float64", 0), nudged(batches[0], "float64", 0)
    np.testing.assert_array_equal(
        quick.forward(side.parameters, batches[0], "float64")["output"],
        side.forward(*given, "float64")["output"],
    )
