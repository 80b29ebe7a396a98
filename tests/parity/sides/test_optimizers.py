"""Every row trains the real network the same on both sides; optax's and torch's defaults do not."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

torch = pytest.importorskip("torch")

import flax_bilstm as fb
import parity
from parity import Optimizer
from parity.compare import compare_sides
from parity.lockstep import NO_MOMENT
from parity.sides import optimizers
from parity.sides.optimizers import ADAM, ADAMW, MOMENTUM, OPTIMIZERS, SGD

from .. import two_layers

UNUSED = ("attention.attn.weight", "attention.attn.bias")


@pytest.fixture(scope="module")
def batches(network):
    rng = np.random.default_rng(1)
    draw = rng.standard_normal
    return [
        {"x": draw((2, 6, 5), np.float32), "target": draw((2, 3), np.float32)} for _ in range(5)
    ]


def train(network, batches, optimizer, dtypes=("float64",)):
    report = compare_sides(
        network.pair, network.inputs, dtypes=dtypes, optimizers=[optimizer], batches=batches
    )
    return report, [row for row in report.rows if row.check == "training"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer.name)
def test_both_sides_train_alike(network, batches, optimizer):
    report, rows = train(network, batches, optimizer, ("float64", "float32"))
    report.assert_passed()
    names = {row.name for row in rows}
    parameters = set(network.pair.reference.parameters)
    assert parameters | {"loss"} <= names
    moments = {f"{name}.{moment}" for name in parameters for moment in optimizer.moments}
    assert names == parameters | {"loss"} | moments


def test_both_sides_do_move_what_is_used_and_not_what_is_not(network, batches):
    start = network.pair.reference.parameters
    for side in (network.pair.reference, network.pair.candidate):
        *_, last = side.train(start, batches, ADAMW, "float32")
        for name, before in start.items():
            assert np.array_equal(last.parameters[name], before) == (name in UNUSED)


# What a port gets from optax when it forgets to spell something out.
FORGOTTEN = {
    "adamw: optax decays by 1e-4": (ADAMW, optax.adamw(1e-3)),
    "adam: another epsilon": (ADAM, optax.adam(1e-3, eps=1e-7)),
    "adam: epsilon inside the root": (ADAM, optax.adam(1e-3, eps=0, eps_root=1e-8)),
    "adam: no decay where adamw decays": (ADAMW, optax.adam(1e-3)),
    "momentum: nesterov": (MOMENTUM, optax.sgd(0.01, momentum=0.9, nesterov=True)),
    "sgd: momentum forgotten": (SGD, optax.sgd(0.0101)),
}


@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.parametrize("fault", FORGOTTEN)
def test_other_defaults_are_caught(network, batches, fault):
    twin, forgotten = FORGOTTEN[fault]
    report, rows = train(network, batches, dataclasses.replace(twin, optax=forgotten))
    assert not report.passed
    first = min((row for row in rows if not row.passed), key=lambda row: row.step)
    assert first.step == 1
    assert first.name.startswith("lstm.weight_ih_l0")


@pytest.mark.usefixtures("quickly_compiled")
def test_an_unused_parameter_moved_by_decay_is_caught(network, batches, instead):
    """As if it were an ordinary parameter with a gradient of 0, which optax.adamw decays."""
    whole = network.pair.candidate

    def decaying(parameters, batches, optimizer, dtype):
        for number, step in enumerate(whole.train(parameters, batches, optimizer, dtype), start=1):
            moved = {n: step.parameters[n] * (1 - 1e-3 * 1e-2) ** number for n in UNUSED}
            yield dataclasses.replace(step, parameters={**step.parameters, **moved})

    pair = dataclasses.replace(network.pair, candidate=instead(whole, train=decaying))
    report = compare_sides(
        pair, network.inputs, dtypes=["float64"], optimizers=[ADAMW], batches=batches
    )
    assert {row.name for row in report.rows if not row.passed} == set(UNUSED)
    assert "the candidate moved it" in report.first_divergence.note


def test_a_nudge_moves_the_learning_rate_alone_and_either_way():
    parameter = torch.nn.Parameter(torch.zeros(1))
    plain = ADAM.torch([parameter]).param_groups[0]
    for seed, sign in ((0, 1), (1, -1)):
        moved = optimizers.nudged(ADAM, "float32", seed).torch([parameter]).param_groups[0]
        step = 1 + sign * ADAM.step_rounding * 2.0**-23
        assert math.isclose(moved["lr"], plain["lr"] * step, rel_tol=1e-12)
        assert moved["betas"] == plain["betas"]


class Linears(torch.nn.Sequential):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))


class OurLinears(nnx.Module):
    def __init__(self):
        self.first, self.last = (nnx.Linear(*n, rngs=nnx.Rngs(0)) for n in ((3, 4), (4, 2)))

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x)))


NAMES = {"first": "0", "last": "2"}


def check(optimizer, dtypes=("float64",), steps=5):
    reference, candidate = Linears(), OurLinears()
    fb.load_state_dict(candidate, reference.state_dict(), names=NAMES)
    x = np.random.default_rng(0).standard_normal((4, 3), dtype=np.float32)
    return parity.check(
        reference, candidate, x, names=NAMES, dtypes=dtypes, training_steps=steps,
        optimizers=[optimizer],
    )  # fmt: skip


def scheduled(make):
    """SGD whose learning rate a scheduler of torch's sets after every step."""

    def sgd(parameters):
        made = torch.optim.SGD(parameters, lr=0.1)
        scheduler = make(made)
        made.register_step_post_hook(lambda *_: scheduler.step())
        return made

    return sgd


SCHEDULERS = torch.optim.lr_scheduler
SCHEDULES = {
    "exponential": (
        lambda made: SCHEDULERS.LambdaLR(made, lambda count: 0.9 ** (count / 3)),
        optax.exponential_decay(0.1, 3, 0.9),
    ),
    "cosine": (
        lambda made: SCHEDULERS.CosineAnnealingLR(made, 7), optax.cosine_decay_schedule(0.1, 7)
    ),
    "warm-up": (
        lambda made: SCHEDULERS.LinearLR(made, 1 / 3, total_iters=4),
        optax.linear_schedule(0.1 / 3, 0.1, 4),
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_are_as_exact_as_the_dtype(schedule, quickly_compiled):
    theirs, ours = SCHEDULES[schedule]
    row = Optimizer(schedule, scheduled(theirs), optax.sgd(ours))
    check(row, dtypes=("float64", "float32")).assert_passed()
    late = Optimizer(schedule, scheduled(theirs), optax.sgd(lambda count: ours(count + 1)))
    assert not check(late).passed


def test_groups_of_parameters_have_optimizers_of_their_own(quickly_compiled):
    def groups(parameters):
        first, last = (parameters := list(parameters))[:2], parameters[2:]
        return torch.optim.Adam([{"params": first, "lr": 1e-3}, {"params": last, "lr": 1e-2}])

    def labels(params):
        return jax.tree.map_with_path(lambda path, _: path[0].key, params)

    row = dataclasses.replace(
        ADAM, torch=groups,
        optax=optax.multi_transform({"first": optax.adam(1e-3), "last": optax.adam(1e-2)}, labels),
    )  # fmt: skip
    report = check(row)
    report.assert_passed()
    assert {"0.weight.exp_avg", "2.weight.exp_avg"} <= {row.name for row in report.rows}


@pytest.mark.parametrize(
    ("moments", "words"),
    [
        ({"exp_avg": "momentum"}, r"optax's state, which has .*'mu'.*, got 'momentum'"),
        ({"average": "mu"}, r"torch's state, which has \['exp_avg', .*, got 'average'"),
        ({"average": "momentum"}, r"optimizer 'adam': moments: expected names in"),
    ],
)
def test_misnamed_moments_are_refused(moments, words, quickly_compiled):
    with pytest.raises(ValueError, match=words):
        check(dataclasses.replace(ADAM, moments=moments), steps=1)


def test_an_optimizer_whose_step_needs_a_closure_is_refused(quickly_compiled):
    lbfgs = parity.Optimizer("lbfgs", torch.optim.LBFGS, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"'lbfgs': expected one whose step needs no closure"):
        two_layers.check(
            two_layers.Reference(two_layers.plain), two_layers.Port(two_layers.plain),
            optimizers=[lbfgs],
        )  # fmt: skip


def test_a_moment_that_only_the_candidate_has_is_said_to_be_one(quickly_compiled):
    def without(parameters):
        return torch.optim.SGD(parameters, lr=1e-3)

    moments = {"momentum_buffer": "trace"}
    optimizer = parity.Optimizer("mine", without, optax.sgd(1e-3, momentum=0.9), moments)
    plain = two_layers.plain
    report = two_layers.check(
        two_layers.Reference(plain), two_layers.Port(plain), optimizers=[optimizer]
    )
    rows = {row.name: row for row in report.failing if row.check == "training"}
    assert rows["a.weight.momentum_buffer"].note == NO_MOMENT
