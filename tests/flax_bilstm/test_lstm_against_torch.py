"""LSTM against torch.nn.LSTM, in float64: every combination of options, and every kind of call.

Each combination of options has a fifth of the calls, so that any two values of options and calls
meet; `make deep` draws from the whole product. Compiling hundreds of programs would take long, so
they run as a model does outside of jit: op by op but for the recurrence, which many of the cases
share, with one implementation: what the options change is around the recurrence. A sample with
every value of every option runs compiled, with all implementations, and test_implementations.py
compares those with one another.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm.recurrence import IMPLEMENTATIONS

torch = pytest.importorskip("torch")

from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

TOLERANCE = 1e-12
HIDDEN, PROJECTED = 4, 2


class Options(NamedTuple):
    """What an LSTM is made with."""

    num_layers: int
    bias: bool
    bidirectional: bool
    proj_size: int


class Call(NamedTuple):
    """What it is called with. A batch of None is an unbatched sequence."""

    batch: int | None
    time_major: bool
    with_state: bool
    with_lengths: bool


OPTIONS = list(
    itertools.starmap(
        Options, itertools.product([1, 2, 3], [True, False], [False, True], [0, PROJECTED])
    )
)
CALLS = [
    call
    for call in itertools.starmap(
        Call, itertools.product([None, 1, 2], [False, True], [False, True], [False, True])
    )
    if not (call.batch is None and call.with_lengths)
]
FIFTHS = {options: CALLS[i % 5 :: 5] for i, options in enumerate(OPTIONS)}


def test_any_two_values_meet():
    def pairs(cases):
        return {
            (i, a, j, b)
            for case in cases
            for (i, a), (j, b) in itertools.combinations(enumerate(case), 2)
        }

    cases = [(*options, *call) for options, calls in FIFTHS.items() for call in calls]
    assert pairs(cases) == pairs((*options, *call) for options in OPTIONS for call in CALLS)


def make_torch(options, inputs, seed=0):
    lstm = torch.nn.LSTM(inputs, HIDDEN, **options._asdict(), dtype=torch.float64)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.copy_(torch.from_numpy(0.5 * rng.normal(size=parameter.shape)))
    return lstm


def make_arrays(lstm, call, time, seed=0):
    """x with NaN in its padding, initial state, lengths and cotangents, as NumPy arrays."""
    rng = np.random.default_rng(seed)
    batch = () if call.batch is None else (call.batch,)
    directions = 1 + lstm.bidirectional
    cells, out = lstm.num_layers * directions, lstm.proj_size or lstm.hidden_size

    def sequence(features):
        value = rng.normal(size=(*batch, time, features))
        return np.swapaxes(value, 0, 1) if call.time_major and batch else value

    x, cotangent = sequence(lstm.input_size), sequence(directions * out)
    state = (
        rng.normal(size=(cells, *batch, out)),
        rng.normal(size=(cells, *batch, lstm.hidden_size)),
    )
    cotangents = (
        cotangent,
        (rng.normal(size=(cells, *batch, out)), rng.normal(size=(cells, *batch, lstm.hidden_size))),
    )
    lengths = None
    if call.with_lengths:
        lengths = np.linspace(1, time, call.batch).astype(int)
        batch_first = np.swapaxes(x, 0, 1) if call.time_major else x  # a view
        batch_first[np.arange(time) >= lengths[:, None]] = np.nan
    return x, state if call.with_state else None, lengths, cotangents


def run_torch(lstm, time_major, x, state, lengths, cotangents):
    """Results and gradients, by name."""
    lstm.batch_first = not time_major
    x = torch.tensor(x, requires_grad=True)
    leaves = dict(lstm.named_parameters()) | {"x": x}
    if state is not None:
        state = tuple(torch.tensor(value, requires_grad=True) for value in state)
        leaves |= dict(zip(("h_0", "c_0"), state, strict=True))
    if lengths is None:
        output, (h_n, c_n) = lstm(x, state)
    else:
        layout = {"batch_first": not time_major}
        packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False, **layout)
        packed, (h_n, c_n) = lstm(packed, state)
        output, _ = pad_packed_sequence(
            packed, total_length=x.shape[0 if time_major else 1], **layout
        )
    results = {"output": output, "h_n": h_n, "c_n": c_n}
    seeds = [torch.tensor(value) for value in (cotangents[0], *cotangents[1])]
    grads = torch.autograd.grad(list(results.values()), list(leaves.values()), seeds)
    results |= {f"d {name}": grad for name, grad in zip(leaves, grads, strict=True)}
    return {name: value.detach().numpy() for name, value in results.items()}


def run_flax(module, under_torch_names, x, state, lengths, cotangents, jit=lambda f: f):
    """Results and gradients, by name."""
    graph, parameters = nnx.split(module)

    def run(parameters, x, state, lengths, cotangents):
        def call(parameters, x, state):
            return nnx.merge(graph, parameters)(x, state, lengths)

        (output, (h_n, c_n)), pull_back = jax.vjp(call, parameters, x, state)
        return {"output": output, "h_n": h_n, "c_n": c_n}, pull_back(cotangents)

    arguments = jax.tree.map(jnp.asarray, (x, state, lengths, cotangents))
    results, (d_parameters, d_x, d_state) = jit(run)(parameters, *arguments)
    grads = under_torch_names(module, d_parameters) | {"x": d_x}
    if d_state is not None:
        grads |= dict(zip(("h_0", "c_0"), d_state, strict=True))
    return results | {f"d {name}": grad for name, grad in grads.items()}


def make_flax(lstm, options, time_major, implementation):
    module = fb.LSTM(
        lstm.input_size,
        lstm.hidden_size,
        **options._asdict(),
        time_major=time_major,
        implementation=implementation,
        param_dtype=jnp.float64,
        rngs=nnx.Rngs(0),
    )
    fb.load_state_dict(module, lstm.state_dict())
    return module


@pytest.mark.usefixtures("x64", "unchecked")  # the compiled sample has its annotations checked
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o)))
def test_every_combination_of_options(assert_close, under_torch_names, options):
    lstm = make_torch(options, inputs=HIDDEN)
    modules = {major: make_flax(lstm, options, major, "fused") for major in (False, True)}
    for call in FIFTHS[options]:
        arrays = make_arrays(lstm, call, time=2)
        expected = run_torch(lstm, call.time_major, *arrays)
        actual = run_flax(modules[call.time_major], under_torch_names, *arrays)
        try:
            assert_close(actual, expected, TOLERANCE)
        except AssertionError as error:
            error.add_note(f"with {call}")
            raise


COMPILED = [
    (Options(1, True, True, 0), Call(2, False, False, False)),
    (Options(1, False, False, 0), Call(None, True, True, False)),
    (Options(2, True, True, PROJECTED), Call(2, False, True, True)),
    (Options(2, True, False, 0), Call(1, True, False, True)),
    (Options(3, False, True, PROJECTED), Call(None, False, False, False)),
    (Options(3, True, True, 0), Call(2, True, True, True)),
]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("options", "call"), COMPILED)
def test_compiled(assert_close, under_torch_names, options, call, implementation):
    lstm = make_torch(options, inputs=3)
    module = make_flax(lstm, options, call.time_major, implementation)
    compiled = {}

    def jit_once(function):
        return compiled.setdefault("run", jax.jit(function))

    for seed in range(5):
        arrays = make_arrays(lstm, call, time=6, seed=seed)
        expected = run_torch(lstm, call.time_major, *arrays)
        actual = run_flax(module, under_torch_names, *arrays, jit=jit_once)
        assert_close(actual, expected, TOLERANCE)


def test_the_compiled_sample_has_every_value_of_every_option():
    options, calls = zip(*COMPILED, strict=True)
    for sample, whole in ((options, OPTIONS), (calls, CALLS)):
        assert [*map(set, zip(*sample, strict=True))] == [*map(set, zip(*whole, strict=True))]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_batch_of_none(assert_close, under_torch_names, implementation):
    options, call = Options(2, True, True, PROJECTED), Call(0, False, True, False)
    lstm = make_torch(options, inputs=3)
    module = make_flax(lstm, options, False, implementation)
    arrays = make_arrays(lstm, call, time=3)
    expected = run_torch(lstm, False, *arrays)
    assert_close(run_flax(module, under_torch_names, *arrays), expected, TOLERANCE)
    module(jnp.zeros((0, 3, 3)), lengths=jnp.zeros(0, jnp.int32))  # torch refuses to pack 0
