"""bfloat16: both sides cast to it, the truth in float64 of the same rounded numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")

import flax_bilstm as fb
import parity
import torch_ref
from parity.compare import compare_sides
from parity.selftest import pieces, planting
from parity.sides import pair as pairs
from parity.sides.optimizers import SGD

ALL = ("float64", "float32", "bfloat16")
KERNELS = "kernel_ih", "kernel_hh"


def test_the_network_passes_and_trains_in_the_other_dtypes_only(network):
    report = parity.check(
        network.reference, network.candidate, network.x, dtypes=ALL, training_steps=1,
        optimizers=[SGD],
    )  # fmt: skip
    report.assert_passed()
    checks = {
        dtype: {row.check_title for row in report.rows if row.dtype == dtype} for dtype in ALL
    }
    assert checks["bfloat16"] == {"local", "forward", "gradients"}
    assert checks["float32"] == {"local", "forward", "gradients", "training, sgd"}
    forward = [row for row in report.rows if (row.check, row.dtype) == ("forward", "bfloat16")]
    assert {row.epsilon for row in forward} == {2.0**-7}
    # Both round: neither computes in another precision than is said.
    forward = [row for row in forward if row.name != "lstm.input"]  # which nobody computes
    assert all(row.distance > 2.0**-12 * row.scale for row in forward)
    assert all(row.reference_distance > 2.0**-12 * row.scale for row in forward)
    assert parity.Report.from_json(report.to_json()).rows == report.rows
    (drawn,) = report.figures["loss_curves"]
    assert (drawn["case"], drawn["optimizer"], drawn["dtype"]) == ("", "sgd", "float32")


@pytest.mark.usefixtures("operation_by_operation")
def test_a_model_that_holds_bfloat16_is_compared_as_it_is(network):
    reference = torch_ref.BiLSTMWithAttention(5, 4, 3).to(torch.bfloat16)
    candidate = fb.from_state_dict(reference.state_dict())
    pair = pairs.of_modules(reference, candidate, {"x": network.x})
    assert pair.reference.parameters["fc.weight"].dtype == jnp.bfloat16
    compare_sides(pair, network.inputs, dtypes=["bfloat16"]).assert_passed()


def eight_bits(real, weights, x, *rest):
    y, state = real(weights, x, *rest)
    return (jax.lax.reduce_precision(y, 5, 2) if x.dtype == jnp.bfloat16 else y), state


def three_significant_bits(w):
    """Of four, which is bfloat16's eight less four, a network this small is at the bound's edge.

    The distance was 0.8 to 1.4 times the bound there, in four networks, and 1.4 to 2.4 with three.
    """
    if w.kernel_ih.dtype != jnp.bfloat16:
        return w
    return w._replace(**{n: jax.lax.reduce_precision(getattr(w, n), 8, 2) for n in KERNELS})


@pytest.mark.usefixtures("operation_by_operation")
@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(planting.implementation(eight_bits), id="values of eight bits"),
        pytest.param(planting.weights(three_significant_bits), id="weights of three"),
    ],
)
def test_fewer_bits_fail_in_bfloat16_alone(network, plant):
    with plant():
        pair = pairs.of_modules(network.reference, network.candidate, {"x": network.x})
        report = compare_sides(pair, network.inputs, dtypes=ALL[1:])
    assert {row.dtype for row in report.rows if not row.passed} == {"bfloat16"}


@pytest.mark.usefixtures("operation_by_operation")
def test_a_mistake_is_placed_and_named_in_bfloat16(network):
    swapped = planting.weights(pieces.gate_order((1, 0, 2, 3)), "reverse")
    with swapped():
        pair = pairs.of_modules(network.reference, network.candidate, {"x": network.x})
        first = compare_sides(pair, network.inputs, dtypes=["bfloat16"]).first_divergence
    assert first.name == "lstm.layer0.reverse.input_gate"
    assert "input and forget gates are exchanged" in first.note


@pytest.mark.usefixtures("operation_by_operation")
def test_other_ports_are_checked_too():
    reference = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.LayerNorm(5))
    layers = nnx.Linear(6, 5, rngs=nnx.Rngs(0)), nnx.LayerNorm(5, epsilon=1e-5, rngs=nnx.Rngs(0))
    candidate = nnx.Sequential(*layers)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        fb.load_state_dict(candidate, reference.state_dict())
        x = np.random.default_rng(0).standard_normal((3, 6), dtype=np.float32)
        report = parity.check(reference, candidate, x, dtypes=ALL, training_steps=0)
    report.assert_passed()
    assert {row.dtype for row in report.rows if row.check == "forward"} == set(ALL)
