"""The network's own port: real stages on both sides, and porting mistakes found where they are."""

import copy
import dataclasses
from collections import OrderedDict

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
from parity import Port, bilstm, harness
from parity.losses import MEAN_SQUARED_ERROR
from parity.modules import table
from parity.nnx_side import nnx_side
from torch_ref import unrolled

STAGES = [
    "lstm.output.forward",
    "lstm.output.reverse",
    "lstm.h_n",
    "lstm.c_n",
    "attention.weights",
    "attention.context",
    "output",
]
FORWARD_WEIGHT, REVERSE_WEIGHT = "lstm.weight_hh_l0", "lstm.weight_hh_l0_reverse"


def test_the_network_passes(network):
    report = harness.compare(network.port, network.inputs)
    report.assert_passed()
    forward = [row.name for row in report.rows if (row.check, row.dtype) == ("forward", "float64")]
    assert forward == STAGES


def test_the_references_stages_are_those_of_the_unrolled_equations(network):
    """The stages that hooks catch, against equations written by someone else."""
    stages = network.port.reference.forward(
        network.port.reference.parameters, network.inputs, "float64"
    )
    state = {n: t.double() for n, t in network.reference.state_dict().items()}
    trace = unrolled.network(state, torch.from_numpy(network.x).double())
    expected = {
        "lstm.output.forward": trace["lstm.output"][..., :4],
        "lstm.output.reverse": trace["lstm.output"][..., 4:],
        "output": trace["output"],
        "lstm.h_n": trace["lstm.h_n"],
        "lstm.c_n": trace["lstm.c_n"],
    }
    for name, value in expected.items():
        np.testing.assert_allclose(stages[name], value.numpy(), rtol=0, atol=1e-13)
    np.testing.assert_allclose(stages["attention.weights"].sum(axis=-1), 1, atol=1e-13)


def test_neither_model_is_changed(network):
    before = fb.state_dict(network.candidate), copy.deepcopy(network.reference.state_dict())
    harness.compare(network.port, network.inputs, dtypes=["float64"])
    for name, array in fb.state_dict(network.candidate).items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, before[0][name])
        np.testing.assert_array_equal(network.reference.state_dict()[name], before[1][name])
    assert type(network.candidate.lstm) is fb.LSTM


def swap_gates(parameter):
    i, f, g, o = np.split(parameter, 4)
    return np.concatenate([f, i, g, o])


def transpose_gates(parameter):
    """Each gate's square matrix the wrong way round: every shape fits."""
    return np.concatenate([gate.T for gate in np.split(parameter, 4)])


NAMES = [
    *(
        f"lstm.{kind}_{of}_l0{suffix}"
        for suffix in ("", "_reverse")
        for kind in ("weight", "bias")
        for of in ("ih", "hh")
    ),
    "attention.attn.weight",
    "attention.attn.bias",
    "fc.weight",
    "fc.bias",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_that_differs_is_named(float64, network, name):
    held = dict(network.port.candidate.parameters)
    assert sorted(held) == sorted(NAMES)
    held[name] = held[name].copy()
    held[name].flat[-1] += 1e-6
    report = float64(network.port.holding(network.port.reference.parameters, held), network.inputs)
    assert (report.first_divergence.check, report.first_divergence.name) == ("parameters", name)
    others = [row for row in report.rows if row.check != "parameters"]
    used = not name.startswith("attention.attn")
    assert used == any(not row.passed for row in others)


@pytest.mark.parametrize("fault", [swap_gates, transpose_gates])
@pytest.mark.parametrize(
    ("name", "stage"),
    [(FORWARD_WEIGHT, "lstm.output.forward"), (REVERSE_WEIGHT, "lstm.output.reverse")],
)
def test_a_mangled_matrix_shows_in_the_direction_that_it_belongs_to(
    float64, forward_failures, network, fault, name, stage
):
    held = dict(network.port.candidate.parameters)
    held[name] = fault(held[name])
    report = float64(network.port.holding(network.port.reference.parameters, held), network.inputs)
    failed = forward_failures(report)
    assert failed[0] == stage
    other = {"lstm.output.forward", "lstm.output.reverse"} - {stage}
    assert not other & set(failed)


class FaultyNetwork:
    """The Flax network's stages with one mistake, the parameters being right."""

    def __init__(self, fault):
        self.fault = fault

    def __call__(self, model, inputs):
        y, (h_n, c_n) = model.lstm(inputs["x"])
        hidden = y.shape[-1] // 2
        forward, reverse = y[..., :hidden], y[..., hidden:]
        if self.fault == "reverse direction not turned back":
            reverse = reverse[:, ::-1]
        if self.fault == "halves exchanged":
            forward, reverse = reverse, forward
        if self.fault == "final states exchanged":
            h_n = h_n[::-1]
        y = jnp.concatenate([forward, reverse], axis=-1)
        query = y[:, 0] if self.fault == "first step queried" else y[:, -1]
        scores = jnp.einsum("bf,btf->bt", query, y)
        if self.fault == "scores scaled":
            scores = scores / jnp.sqrt(jnp.asarray(2 * hidden, dtype=scores.dtype))
        weights = nnx.softmax(scores, axis=0 if self.fault == "softmax over the batch" else -1)
        context = jnp.einsum("bt,btf->bf", weights, y)
        if self.fault == "attention skipped":
            context = y[:, -1]
        output = model.fc(context)
        if self.fault == "bias doubled":
            output = output + model.fc.bias[...][None]
        return OrderedDict(
            zip(STAGES, [forward, reverse, h_n, c_n, weights, context, output], strict=True)
        )


@pytest.mark.parametrize(
    ("fault", "stage"),
    [
        (None, None),
        ("reverse direction not turned back", "lstm.output.reverse"),
        ("halves exchanged", "lstm.output.forward"),
        ("final states exchanged", "lstm.h_n"),
        ("first step queried", "attention.weights"),
        ("scores scaled", "attention.weights"),
        ("softmax over the batch", "attention.weights"),
        ("attention skipped", "attention.context"),
        ("bias doubled", "output"),
    ],
)
def test_porting_mistakes_are_found_at_their_stage(float64, network, fault, stage):
    candidate = nnx_side(
        network.candidate, table(network.candidate), FaultyNetwork(fault), MEAN_SQUARED_ERROR
    )
    # The forward pass is all that is looked at: the reference's gradients spare a compilation.
    candidate = dataclasses.replace(candidate, gradients=network.port.reference.gradients)
    report = float64(Port(network.port.reference, candidate), network.inputs)
    first = report.first_divergence
    assert (first and (first.check, first.name)) == (stage and ("forward", stage))


def test_weights_rounded_to_bfloat16_fail_in_float32(forward_failures, network):
    """Planted behind the parameters' comparison: what is held is equal, what is computed is not."""
    whole = network.port.candidate

    def rounded(parameters, inputs, dtype):
        low = {n: np.asarray(jnp.asarray(a, jnp.bfloat16)) for n, a in parameters.items()}
        return whole.forward({n: a.astype(np.float32) for n, a in low.items()}, inputs, dtype)

    port = Port(network.port.reference, dataclasses.replace(whole, forward=rounded))
    report = harness.compare(port, network.inputs, dtypes=["float32"])
    assert forward_failures(report) == STAGES


def test_a_candidate_computing_in_bfloat16_fails(forward_failures, network):
    low = fb.from_state_dict(network.reference.state_dict(), dtype=jnp.bfloat16)
    report = harness.compare(
        bilstm.port(network.reference, low), network.inputs, dtypes=["float32"]
    )
    assert forward_failures(report) == STAGES


def test_models_of_other_kinds_are_refused(network):
    with pytest.raises(TypeError, match=r"flax_model: .* got Linear"):
        bilstm.port(network.reference, nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    with pytest.raises(TypeError, match=r"torch_model: expected .* `fc`, got Linear"):
        bilstm.port(torch.nn.Linear(2, 3), network.candidate)
    with pytest.raises(TypeError, match=r"torch_model: expected a torch.nn.LSTM, got str"):
        bilstm.port("model.pt", fb.LSTM(2, 3, rngs=nnx.Rngs(0)))
