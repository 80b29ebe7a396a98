"""Loud, quiet and padded variants of a check's inputs."""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
import parity
from parity.place import Case
from parity.sides import data
from parity.sides.variants import VARIANTS, varied

X = np.linspace(-1, 2, 24, dtype=np.float32).reshape(3, 4, 2)
QUICK = {"dtypes": ["float64"], "training_steps": 0}


def made(inputs, lengths=None):
    return dict(varied(inputs, VARIANTS, lengths))


def test_only_floating_inputs_that_are_no_mask_get_louder_and_quieter():
    mask, tokens = np.eye(3, dtype=np.float32), np.arange(6)
    cases = made({"x": X, "mask": mask, "tokens": tokens, "target": X})
    assert list(cases) == ["", "loud", "quiet"]
    np.testing.assert_array_equal(cases["loud"]["x"], 30 * X)
    np.testing.assert_allclose(cases["quiet"]["x"], X / 1000, rtol=1e-6)
    for case in cases.values():
        assert (case["mask"] is mask, case["tokens"] is tokens, case["target"] is X) == (True,) * 3


def test_inputs_without_floating_numbers_or_lengths_have_no_variants():
    assert list(made({"tokens": np.arange(6)})) == [""]


@pytest.mark.parametrize(
    ("given", "padded"), [([5, 3, 3], [5, 3, 1]), ([2, 5, 3], [1, 3, 5]), ([4, 4, 4], [4, 2, 1])]
)
def test_padded_lengths_end_at_the_longest_and_stay_in_descending_order(given, padded):
    cases = made({"lengths": np.array(given, np.int32)})
    assert cases["padded"]["lengths"].tolist() == padded
    assert cases["padded"]["lengths"].dtype == np.int32


def test_models_of_this_package_have_lengths_although_none_are_given():
    theirs, ours = torch.nn.LSTM(2, 3), fb.LSTM(2, 3, time_major=True, rngs=nnx.Rngs(0))
    assert data.lengths_of({"x": X}, theirs, ours).tolist() == [3, 3, 3, 3]
    theirs.batch_first = True
    assert data.lengths_of({"x": X}, theirs, ours).tolist() == [4, 4, 4]
    assert data.lengths_of({"x": X[0]}, theirs, ours) is None
    assert data.lengths_of({"x": X}, torch.nn.Linear(2, 3), ours) is None


def test_an_unknown_variant_is_refused(network):
    with pytest.raises(ValueError, match=r"variants: expected any of \('loud', .* got 'loud'"):
        parity.check(network.reference, network.candidate, network.x, variants="loud", **QUICK)


def failing(report):
    return {row.case.which for row in report.rows if not row.passed}


class Theirs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return torch.tanh(self.scale * x)


class Ours(nnx.Module):
    def __init__(self, faulty_below):
        self.scale = nnx.Param(jnp.ones(()))
        self.faulty_below = faulty_below

    def __call__(self, x):
        y = jnp.tanh(self.scale[...] * x)
        return jnp.where(jnp.max(jnp.abs(x)) < self.faulty_below, 2 * y, y)


@pytest.mark.parametrize(("faulty_below", "cases"), [(0.0, set()), (0.5, {"quiet"})])
def test_a_mistake_that_only_quiet_inputs_show_fails_in_their_case(
    faulty_below, cases, quickly_compiled
):
    report = parity.check(
        Theirs(), Ours(faulty_below), X, variants=VARIANTS, dtypes=["float64"], training_steps=1,
        optimizers=[parity.optimizers.SGD],
    )  # fmt: skip
    assert {row.case.which for row in report.rows} == {"", "loud", "quiet"}
    assert {case.which for case in report.cases} == {"", "loud", "quiet"}
    assert failing(report) == cases
    assert {row.case.which for row in report.rows if row.check.startswith("training")} == {""}


def test_the_network_is_checked_with_padding(network, quickly_compiled):
    report = parity.check(network.reference, network.candidate, network.x,
                          variants=("padded",), **QUICK)  # fmt: skip
    report.assert_passed()
    assert report.cases[Case("", "padded")]["inputs"]["lengths"] == [2]


def test_padding_without_an_input_called_lengths_is_noted(quickly_compiled):
    report = parity.check(Theirs(), Ours(0.0), X, variants=("padded",), **QUICK)
    report.assert_passed()
    (facts,) = report.cases.values()
    words = "the variant padded is left out: no input is called lengths; give x by names"
    assert facts["notes"] == [words]


@pytest.mark.parametrize("fault", [False, True])
def test_padding_that_is_ignored_fails_in_the_padded_case(fault, monkeypatch, quickly_compiled):
    theirs = torch.nn.LSTM(2, 3, batch_first=True)
    ours = fb.from_state_dict(theirs.state_dict())
    whole = fb.LSTM.__call__

    def call(self, x, lengths=None, initial_state=None):
        return whole(self, x, lengths=None if fault else lengths, initial_state=initial_state)

    monkeypatch.setattr(fb.LSTM, "__call__", call)
    assert failing(parity.check(theirs, ours, X, variants=("padded",), **QUICK)) == (
        {"padded"} if fault else set()
    )
