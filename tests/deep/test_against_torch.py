"""Random configurations of the LSTM against `torch.nn.LSTM`: outputs, states and gradients."""

import numpy as np
import pytest
from hypothesis import example, given, settings

import flax_bilstm as fb
from flax_bilstm.recurrence import IMPLEMENTATIONS

from .configurations import CONFIGURATIONS, Configuration
from .running import gradients, make_room, run

torch = pytest.importorskip("torch")

from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

TOLERANCE = 1e-12

# A cell gate is tanh(8.5) = 1 − 8e-8 here: its derivative is left with half of its digits.
SATURATED = Configuration(
    input_size=1,
    hidden_size=2,
    num_layers=1,
    bias=False,
    bidirectional=False,
    projected=False,
    implementation="fused",
    batch=1,
    time=1,
    lengths=False,
    state=False,
    scale=30.0,
    seed=232,
)


def allowed(config, truth):
    """The largest error that passes.

    It is relative to the largest element. With loud inputs the gates saturate, and their
    derivatives, 1 − tanh² and σ(1 − σ), cancel: they are exact to an ε of 1, not of themselves. A
    gradient is then only exact relative to what it would be with derivatives of 1, which is about
    the size of the inputs.
    """
    unsaturated = config.scale if config.scale > 1 else 0.0
    return TOLERANCE * max(np.abs(truth).max(), unsaturated, 1e-300)


def torch_forward(config, model, call):
    """The LSTM of PyTorch with the weights of `model`, its x, and its outputs, h_n and c_n."""
    lstm = torch.nn.LSTM(
        config.input_size, config.hidden_size, batch_first=True, **config.options()
    ).double()
    lstm.load_state_dict({n: torch.tensor(a) for n, a in fb.state_dict(model).items()})
    x = torch.tensor(call["x"], requires_grad=True)
    state = call["initial_state"] and tuple(map(torch.tensor, call["initial_state"]))
    if call["lengths"] is None:
        outputs, (h_n, c_n) = lstm(x, state)
    else:
        lengths = torch.tensor(call["lengths"])
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        outputs, (h_n, c_n) = lstm(packed, state)
        outputs, _ = pad_packed_sequence(outputs, batch_first=True, total_length=config.time)
    return lstm, x, {"outputs": outputs, "h_n": h_n, "c_n": c_n}


def torch_results(config, model):
    """PyTorch's outputs and final states, and the gradients of their sum of squares."""
    lstm, x, values = torch_forward(config, model, config.call())
    sum((a**2).sum() for a in values.values()).backward()
    of_parameters = {name: p.grad for name, p in lstm.named_parameters()}
    return {n: a.detach().numpy() for n, a in (values | of_parameters | {"x": x.grad}).items()}


def flax_results(config, model):
    """The same of this library."""
    values, of_model, of_x = gradients(model, **config.call())
    names = ("outputs", "h_n", "c_n")
    return {**dict(zip(names, values, strict=True)), **fb.state_dict(of_model), "x": of_x}


@pytest.mark.parametrize("implementation", sorted(IMPLEMENTATIONS))
@settings(settings.get_profile("deep"))
@given(CONFIGURATIONS)
@example(SATURATED)
def test_outputs_states_and_gradients_are_those_of_torch(implementation, config):
    config = config._replace(implementation=implementation)
    make_room(config)
    model = config.model()
    for case in config.with_other_numbers():  # by the same compiled program
        case.draw_parameters(model)
        expected, actual = torch_results(case, model), flax_results(case, model)
        assert actual.keys() == expected.keys()
        for name, truth in expected.items():
            error = np.abs(np.asarray(actual[name]) - truth).max()
            assert error <= allowed(case, truth), (name, error, case)


@settings(settings.get_profile("deep laws"))
@given(CONFIGURATIONS)
def test_a_value_that_is_not_finite_reaches_the_same_outputs(config):
    make_room(config)
    model, call = config.model(), config.call()
    rng = np.random.default_rng(config.seed)
    lengths = call["lengths"] if call["lengths"] is not None else [config.time] * config.batch
    row = rng.integers(config.batch)
    place = (row, rng.integers(lengths[row]), rng.integers(config.input_size))
    for value in (np.nan, np.inf, -np.inf):
        call["x"][place] = value
        _, _, expected = torch_forward(config, model, call)
        outputs, (h_n, c_n) = run(model, **call)
        for name, actual in {"outputs": outputs, "h_n": h_n, "c_n": c_n}.items():
            same = np.isnan(np.asarray(actual)) == np.isnan(expected[name].detach().numpy())
            assert same.all(), (value, name, int((~same).sum()))
