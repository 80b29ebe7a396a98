import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb

torch = pytest.importorskip("torch")

import parity
from parity.checking import check_pair
from parity.sides.optimizers import MOMENTUM, SGD


@pytest.fixture(scope="module")
def report(network):
    return parity.check(network.reference, network.candidate, network.x, training_steps=2)


def test_what_is_claimed_to_be_compared_is(report):
    report.assert_passed()
    checks = {(row.check_title, row.dtype) for row in report.rows}
    names = ["sgd", "sgd with momentum", "adam", "adamw"]
    per_dtype = ["local", "forward", "gradients", *(f"training, {name}" for name in names)]
    expected = {(check, dtype) for check in per_dtype for dtype in ("float64", "float32")}
    assert checks == expected | {("parameters", ""), ("inputs", "")}


def test_float64_agrees_to_far_better_than_1e_10(report):
    rows = [row for row in report.rows if row.dtype == "float64" and row.scale]
    assert max(row.distance / row.scale for row in rows) < 1e-12


def test_the_report_says_how_it_was_made(report):
    facts = report.environment
    assert facts["dtypes"] == ["float64", "float32"]
    assert facts["matmul_precision"] == "highest"
    (case,) = report.cases.values()
    assert case["seed"] == 0
    assert case["training_steps"] == 2
    assert case["inputs"] == {"x": [2, 6, 5], "target": [2, 3]}
    assert case["parameters"] == sum(p.numel() for p in _parameters())


def _parameters():
    import torch_ref

    return torch_ref.BiLSTMWithAttention(5, 4, 3).parameters()


def test_the_report_survives_json(report):
    assert parity.Report.from_json(report.to_json()) == report


class TiedReference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Embedding(7, 3)
        self.decoder = torch.nn.Linear(3, 7, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, tokens):
        return self.decoder(torch.tanh(self.encoder(tokens)))


class Tied(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(7, 3, rngs=rngs)

    def __call__(self, tokens):
        return self.embed.attend(jnp.tanh(self.embed(tokens)))


def test_tied_weights_pass_with_their_moments():
    reference, candidate = TiedReference(), Tied(nnx.Rngs(0))
    names = {"embed": ("encoder", "decoder")}
    fb.load_state_dict(candidate, reference.state_dict(), names=names)
    optimizers, tokens = [MOMENTUM], np.arange(6).reshape(2, 3)
    parity.check(
        reference, candidate, tokens, names=names, training_steps=2, dtypes=("float64",),
        optimizers=optimizers,
    ).assert_passed()  # fmt: skip


def test_a_candidate_with_another_parameter_fails(network):
    from flax import nnx

    other = nnx.clone(network.candidate)
    other.fc.bias[...] = other.fc.bias[...] + 1e-6
    report = parity.check(network.reference, other, network.x, dtypes=["float64"], training_steps=0)
    with pytest.raises(AssertionError, match=r"first fc\.bias"):
        report.assert_passed()


def check(network, **options):
    """`check` on functions that are compiled already."""
    return check_pair(
        network.pair, {"x": network.x}, dtypes=["float64"], optimizers=[SGD], **options
    )


def test_zero_training_steps_leave_training_out(network):
    assert not any("training" in row.check for row in check(network, training_steps=0).rows)
    assert any("training" in row.check for row in check(network, training_steps=1).rows)


def test_more_batches_than_fit_in_memory_are_refused(network):
    with pytest.raises(ValueError, match=r"training_steps: expected at most 10,000, .* 1000000000"):
        check(network, training_steps=10**9)


def test_targets_and_batches_come_from_the_seed(network):
    def losses(seed):
        report = check(network, training_steps=1, seed=seed)
        return [row.scale for row in report.rows if row.name in ("loss", "target")]

    assert losses(1) == losses(1)
    assert not set(losses(1)) & set(losses(2))


def test_an_integer_x_is_refused(network):
    with pytest.raises(ValueError, match="x: expected floating numbers, got int64"):
        parity.check(network.reference, network.candidate, np.zeros((2, 6, 5), np.int64))
