"""Random configurations of the LSTM against `torch.nn.LSTM`: outputs, states and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import example, given, settings

import flax_bilstm as fb

from .configurations import CONFIGURATIONS, Configuration

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


def torch_results(config):
    """PyTorch's outputs and final states, and the gradients of their sum of squares."""
    model = torch.nn.LSTM(
        config.input_size, config.hidden_size, batch_first=True, **config.options()
    ).double()
    state_dict = {n: torch.tensor(a) for n, a in fb.state_dict(config.model()).items()}
    model.load_state_dict(state_dict)
    call = config.call()
    x = torch.tensor(call["x"], requires_grad=True)
    state = call["initial_state"] and tuple(map(torch.tensor, call["initial_state"]))
    if call["lengths"] is None:
        outputs, final = model(x, state)
    else:
        lengths = torch.tensor(call["lengths"])
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        outputs, final = model(packed, state)
        outputs, _ = pad_packed_sequence(outputs, batch_first=True, total_length=config.time)
    sum((a**2).sum() for a in (outputs, *final)).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()} | {"x": x.grad}
    values = {"outputs": outputs, "h_n": final[0], "c_n": final[1]}
    return {n: a.detach().numpy() for n, a in (values | gradients).items()}


def flax_results(config):
    """The same of this library."""
    if config.seed % 64 == 0:
        jax.clear_caches()  # thousands of compiled programs would fill the memory
    model, call = config.model(), config.call()

    def loss_of(model, x):
        outputs, (h_n, c_n) = model(x, call["initial_state"], call["lengths"])
        return sum(jnp.sum(a**2) for a in (outputs, h_n, c_n)), (outputs, h_n, c_n)

    gradient = nnx.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)
    (_, values), (of_model, of_x) = gradient(model, jnp.asarray(call["x"]))
    nnx.update(model, of_model)  # gradients under torch's names: by way of a model that holds them
    return {
        **dict(zip(("outputs", "h_n", "c_n"), values, strict=True)),
        **fb.state_dict(model),
        "x": of_x,
    }


@settings(settings.get_profile("deep"))
@given(CONFIGURATIONS)
@example(SATURATED)
def test_outputs_states_and_gradients_are_those_of_torch(config):
    expected, actual = torch_results(config), flax_results(config)
    assert actual.keys() == expected.keys()
    for name, truth in expected.items():
        error = np.abs(np.asarray(actual[name]) - truth).max()
        assert error <= allowed(config, truth), (name, error)


@settings(settings.get_profile("deep"))
@given(CONFIGURATIONS)
def test_a_value_that_is_not_finite_reaches_the_same_outputs(config):
    call = config.call()
    rng = np.random.default_rng(config.seed)
    lengths = call["lengths"] if call["lengths"] is not None else [config.time] * config.batch
    row = rng.integers(config.batch)
    place = (row, rng.integers(lengths[row]), rng.integers(config.input_size))
    for value in (np.nan, np.inf, -np.inf):
        x = call["x"].copy()
        x[place] = value
        expected = _torch_forward(config, call | {"x": x})
        model = config.model()
        outputs, (h_n, c_n) = model(x, call["initial_state"], call["lengths"])
        for name, actual in {"outputs": outputs, "h_n": h_n, "c_n": c_n}.items():
            same = np.isnan(np.asarray(actual)) == np.isnan(expected[name])
            assert same.all(), (value, name, int((~same).sum()))


def _torch_forward(config, call):
    model = torch.nn.LSTM(
        config.input_size, config.hidden_size, batch_first=True, **config.options()
    ).double()
    model.load_state_dict({n: torch.tensor(a) for n, a in fb.state_dict(config.model()).items()})
    state = call["initial_state"] and tuple(map(torch.tensor, call["initial_state"]))
    with torch.no_grad():
        if call["lengths"] is None:
            outputs, (h_n, c_n) = model(torch.tensor(call["x"]), state)
        else:
            packed = pack_padded_sequence(
                torch.tensor(call["x"]),
                torch.tensor(call["lengths"]),
                batch_first=True,
                enforce_sorted=False,
            )
            outputs, (h_n, c_n) = model(packed, state)
            outputs, _ = pad_packed_sequence(outputs, batch_first=True, total_length=config.time)
    return {"outputs": outputs.numpy(), "h_n": h_n.numpy(), "c_n": c_n.numpy()}
