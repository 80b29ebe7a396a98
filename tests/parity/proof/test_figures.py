from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import flax_bilstm as fb
from parity import Report
from parity.proof import figures
from torch_ref import unrolled


@pytest.fixture(scope="module")
def stacked():
    """Two layers and two directions, so that no place can be mistaken for another."""
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    ours = fb.from_state_dict(theirs.state_dict())
    x = np.random.default_rng(0).standard_normal((2, 6, 3), dtype=np.float32)
    return SimpleNamespace(theirs=theirs, ours=ours, x=x)


def errors(stacked, ours=None):
    return figures.stage_errors(stacked.theirs, ours or stacked.ours, stacked.x, "c")


def test_every_layer_and_direction_is_within_its_bound_in_both_dtypes(stacked):
    made = errors(stacked)
    assert [one["dtype"] for one in made] == ["float64", "float32"]
    for one in made:
        places = [(stage["layer"], stage["direction"]) for stage in one["stages"]]
        assert places == [(0, "forward"), (0, "reverse"), (1, "forward"), (1, "reverse")]
        for stage in one["stages"]:
            assert len(stage["candidate"]) == len(stage["reference"]) == 6
            assert 0 < max(stage["candidate"]) < stage["bound"]
    assert max(made[1]["stages"][3]["reference"]) > 0


def test_the_layers_are_those_of_the_unrolled_equations(stacked):
    given = torch.from_numpy(stacked.x).double()
    found = figures._torch_directions(stacked.theirs, {"x": given})
    state = {name: tensor.double() for name, tensor in stacked.theirs.state_dict().items()}
    trace = unrolled.lstm(state, given)
    assert list(found) == ["0.forward", "0.reverse", "1.forward", "1.reverse"]
    for name, value in found.items():
        layer, direction = name.split(".")
        expected = unrolled.steps(trace, f"lstm.layer{layer}.{direction}", "hidden")
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-13)


def test_a_fault_is_drawn_where_it_is(stacked):
    """The forget gate's bias of layer 1's reverse direction: its last step sees nothing of it."""
    wrong = fb.from_state_dict(stacked.theirs.state_dict())
    bias = wrong.layers[1].reverse.bias_hh
    bias.set_value(bias[...].at[4:8].add(jnp.float32(1e-3)))
    *right, last = errors(stacked, wrong)[0]["stages"]
    assert all(max(stage["candidate"]) < stage["bound"] for stage in right)
    above = [value > last["bound"] for value in last["candidate"]]
    assert above == [True, True, True, True, True, False]


def test_the_attention_of_both_sides(network):
    attention = figures.attention(network.reference, network.candidate, network.x, "c")
    for side in ("reference", "candidate"):
        weights = np.array(attention[side])
        assert weights.shape == (2, 6)
        np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(attention["reference"], attention["candidate"], rtol=1e-5)
    text = Report((), {}, {"attention": [attention]}).to_json()
    assert Report.from_json(text).figures == {"attention": [attention]}
