"""The network as a pair: real stages on both sides, and porting mistakes found where they are."""

import copy

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
from flax_bilstm.conversion.rows import rows
from parity import Pair
from parity.compare import compare_sides
from parity.sides import pair as pairs
from parity.sides.nnx_side import NnxSide
from torch_ref import unrolled

STAGES = [
    "lstm.input", "lstm.output", "lstm.h_n", "lstm.c_n",
    "attention.input", "fc.input", "fc", "output",
]  # fmt: skip
FORWARD_WEIGHT, REVERSE_WEIGHT = "lstm.weight_hh_l0", "lstm.weight_hh_l0_reverse"


def test_the_network_passes(network):
    report = compare_sides(network.pair, network.inputs)
    report.assert_passed()
    forward = [row.name for row in report.rows if (row.check, row.dtype) == ("forward", "float64")]
    assert forward == STAGES


def test_the_references_stages_are_those_of_the_unrolled_equations(network):
    """The stages that hooks catch, against equations written by someone else."""
    stages = network.pair.reference.forward(
        network.pair.reference.parameters, network.inputs, "float64"
    )
    state = {n: t.double() for n, t in network.reference.state_dict().items()}
    trace = unrolled.network(state, torch.from_numpy(network.x).double())
    expected = {
        "lstm.output": trace["lstm.output"],
        "fc.input": trace["fc.input"],
        "output": trace["output"],
        "lstm.h_n": trace["lstm.h_n"],
        "lstm.c_n": trace["lstm.c_n"],
    }
    for name, value in expected.items():
        np.testing.assert_allclose(stages[name], value.numpy(), rtol=0, atol=1e-13)


def test_neither_model_is_changed(network):
    before = fb.state_dict(network.candidate), copy.deepcopy(network.reference.state_dict())
    compare_sides(network.pair, network.inputs, dtypes=["float64"])
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
    held = dict(network.pair.candidate.parameters)
    assert sorted(held) == sorted(NAMES)
    held[name] = held[name].copy()
    held[name].flat[-1] += 1e-6
    report = float64(network.pair.holding(network.pair.reference.parameters, held), network.inputs)
    assert (report.first_divergence.check, report.first_divergence.name) == ("parameters", name)
    others = [row for row in report.rows if row.check != "parameters"]
    used = not name.startswith("attention.attn")
    assert used == any(not row.passed for row in others)


@pytest.mark.parametrize("fault", [swap_gates, transpose_gates])
@pytest.mark.parametrize(("name", "half"), [(FORWARD_WEIGHT, 0), (REVERSE_WEIGHT, 1)])
def test_a_mangled_matrix_shows_in_the_direction_that_it_belongs_to(
    float64, forward_failures, network, fault, name, half
):
    held = dict(network.pair.candidate.parameters)
    held[name] = fault(held[name])
    pair = network.pair.holding(network.pair.reference.parameters, held)
    report = float64(pair, network.inputs)
    assert forward_failures(report)[0] == "lstm.output"
    sides = (network.pair.reference, network.pair.reference.parameters), (pair.candidate, held)
    theirs, ours = (
        side.forward(parameters, network.inputs, "float64")["lstm.output"]
        for side, parameters in sides
    )
    different = np.abs(theirs - ours).max(axis=(0, 1)) > 1e-9
    assert different[4 * half : 4 * half + 4].any()
    assert not different[4 * (1 - half) : 4 * (1 - half) + 4].any()


def faulty_call(fault):
    """The Flax network, called with one mistake, the parameters being right."""

    def call(model, inputs):
        y, _ = model.lstm(inputs["x"])
        query = y[:, 0] if fault == "first step queried" else y[:, -1]
        scores = jnp.einsum("bf,btf->bt", query, y)
        if fault == "scores scaled":
            scores = scores / jnp.sqrt(jnp.asarray(y.shape[-1], dtype=scores.dtype))
        weights = nnx.softmax(scores, axis=0 if fault == "softmax over the batch" else -1)
        context = jnp.einsum("bt,btf->bf", weights, y)
        if fault == "attention skipped":
            context = y[:, -1]
        output = model.fc(context)
        if fault == "bias doubled":
            output = output + model.fc.bias[...][None]
        return output

    return call


@pytest.mark.parametrize(
    ("fault", "stage"),
    [
        (None, None),
        ("first step queried", "fc.input"),
        ("scores scaled", "fc.input"),
        ("softmax over the batch", "fc.input"),
        ("attention skipped", "fc.input"),
        ("bias doubled", "output"),
    ],
)
def test_porting_mistakes_are_found_at_their_stage(float64, network, instead, fault, stage):
    reference = network.pair.reference
    called = reference.running.chosen - {"attention.input"}  # which this one never calls
    theirs = reference.choosing(called)
    candidate = NnxSide(
        network.candidate, rows(network.candidate), faulty_call(fault),
        stages=network.pair.stages, with_ports=network.pair.lstms, chosen=called,
    )  # fmt: skip
    # The forward pass is all that is looked at: the reference's gradients spare a compilation.
    candidate = instead(candidate, gradients=theirs.gradients)
    report = float64(Pair(theirs, candidate), network.inputs)
    first = report.first_divergence
    assert (first and (first.check, first.name)) == (stage and ("local", stage))


def test_weights_rounded_to_bfloat16_fail_in_float32(forward_failures, network, instead):
    """Planted behind the parameters' comparison: what is held is equal, what is computed is not."""
    whole = network.pair.candidate

    def rounded(parameters, inputs, dtype):
        low = {n: np.asarray(jnp.asarray(a, jnp.bfloat16)) for n, a in parameters.items()}
        return whole.forward({n: a.astype(np.float32) for n, a in low.items()}, inputs, dtype)

    pair = Pair(network.pair.reference, instead(whole, forward=rounded))
    report = compare_sides(pair, network.inputs, dtypes=["float32"])
    assert forward_failures(report) == STAGES[1:]


def test_a_candidate_computing_in_bfloat16_fails(forward_failures, network):
    low = fb.from_state_dict(network.reference.state_dict(), dtype=jnp.bfloat16)
    report = compare_sides(
        pairs.of_modules(network.reference, low, {"x": network.x}), network.inputs,
        dtypes=["float32"],
    )  # fmt: skip
    assert forward_failures(report)[0] == "lstm.output"
    assert set(forward_failures(report)) >= {"lstm.h_n", "fc.input", "fc", "output"}


def test_models_of_other_kinds_are_refused(network):
    with pytest.raises(TypeError, match=r"flax_model: expected nnx\.Module, or a function, got Bi"):
        pairs.of_modules(network.reference, network.reference, {"x": network.x})
    with pytest.raises(TypeError, match=r"torch_model: expected torch\.nn\.Module, got str"):
        pairs.of_modules("model.pt", network.candidate, {"x": network.x})
    with pytest.raises(ValueError, match=r"unexpected: lstm\.weight_ih_l0"):
        pairs.of_modules(network.reference, nnx.Linear(2, 3, rngs=nnx.Rngs(0)), {"x": network.x})
