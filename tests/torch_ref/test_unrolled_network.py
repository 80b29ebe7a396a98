"""The unrolled network against the modules: outputs, inner stages, gradients, ragged batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch_ref import BiLSTMWithAttention, unrolled

SCORES = ["dot", "general"]


def make_network(score="dot", inputs=4, hidden=5, outputs=3):
    torch.manual_seed(0)
    return BiLSTMWithAttention(inputs, hidden, outputs, score).double()


def gradients_of(model, x):
    """Loss gradients of a module's parameters and input, by torch's own modules."""
    leaves = dict(model.named_parameters()) | {"x": x}
    loss = model(x).square().sum()
    return dict(
        zip(
            leaves, torch.autograd.grad(loss, list(leaves.values()), allow_unused=True), strict=True
        )
    )


@given(
    batch=st.integers(1, 4),
    time=st.integers(1, 9),
    inputs=st.integers(1, 6),
    hidden=st.integers(1, 6),
    outputs=st.integers(1, 3),
    score=st.sampled_from(SCORES),
)
def test_equals_the_modules(assert_same, batch, time, inputs, hidden, outputs, score):
    model = make_network(score, inputs, hidden, outputs)
    x = torch.randn(batch, time, inputs, dtype=torch.float64, requires_grad=True)
    stages = {}
    for name in ("lstm", "attention"):
        model.get_submodule(name).register_forward_hook(
            lambda module, args, result, name=name: stages.update({name: result})
        )
    output = model(x)
    lstm_output, (h_n, c_n) = stages["lstm"]
    expected = {
        "lstm.output": lstm_output,
        "lstm.h_n": h_n,
        "lstm.c_n": c_n,
        "attention.context": stages["attention"],
        "output": output,
    }
    weights = dict(model.named_parameters())
    trace = unrolled.network(weights, x, score=score)
    assert_same({name: trace[name] for name in expected}, expected)
    expected_grads = gradients_of(model, x)
    loss = trace["output"].square().sum()
    assert_same(unrolled.gradients(weights | {"x": x}, loss), expected_grads)
    unused = [name for name, grad in expected_grads.items() if grad is None]
    assert unused == ["attention.attn.weight", "attention.attn.bias"][SCORES.index(score) :]


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("padding", [torch.nan, torch.inf, 1e300])
def test_ragged_batch_gives_each_sequence_what_it_gets_alone(assert_same, score, padding):
    model = make_network(score)
    lengths = torch.tensor([6, 1, 3, 5])
    x = torch.randn(4, 6, 4, dtype=torch.float64)
    alone = [x[[row], :length].clone().requires_grad_() for row, length in enumerate(lengths)]
    padded = torch.full_like(x, padding)
    for row, length in enumerate(lengths):
        padded[row, :length] = x[row, :length]
    padded.requires_grad_()

    leaves = dict(model.named_parameters())
    trace = unrolled.network(leaves, padded, lengths=lengths, score=score)
    each = [gradients_of(model, sequence) for sequence in alone]
    grads = unrolled.gradients({**leaves, "x": padded, **trace}, trace["output"].square().sum())
    expected_x = torch.zeros_like(x)
    for row, length in enumerate(lengths):
        expected_x[row, :length] = each[row]["x"][0]
    expected = {
        name: None if each[0][name] is None else torch.stack([g[name] for g in each]).sum(0)
        for name in leaves
    }
    assert_same({"output": trace["output"]}, {"output": torch.cat([model(s) for s in alone])})
    assert_same({name: grads[name] for name in [*leaves, "x"]}, expected | {"x": expected_x})
    for name, value in trace.items():
        assert value.isfinite().all(), name
        assert grads[name] is None or grads[name].isfinite().all(), name


@pytest.mark.parametrize("score", SCORES)
def test_every_entry_is_zero_in_padding(score):
    lengths = [6, 1, 3, 5]
    model = make_network(score)
    trace = unrolled.network(model.state_dict(), torch.randn(4, 6, 4).double(), lengths=lengths,
                             score=score)  # fmt: skip
    for row, length in enumerate(lengths):
        for name, value in trace.items():
            if ".t" in name and ".layer" in name:
                t = int(name.split(".t")[1].split(".")[0])
                assert value[row].any() == (t < length), name
            elif name in ("input", "lstm.layer0.output", "lstm.output", "attention.context"):
                assert value[row, :length].all(), name
                assert not value[row, length:].any(), name
            elif name in ("attention.scores", "attention.weights"):
                assert value[row, :length, :length].all(), name
                assert not value[row, length:].any(), name
                assert not value[row, :, length:].any(), name


def test_unknown_score():
    with pytest.raises(ValueError, match=r"score must be one of \('dot', 'general'\), got 'add'"):
        unrolled.network(make_network().state_dict(), torch.zeros(1, 1, 4).double(), score="add")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fc.bias": None}, r"missing: fc.bias"),
        ({"attention.attn.bias": None}, r"missing: attention.attn.bias \(10,\)"),
        ({"fc.weight": (10, 3)}, r"fc.weight: expected shape \(3, 10\), got \(10, 3\)"),
        ({"attention.attn.weight": (5, 5)}, r"expected shape \(10, 10\), got \(5, 5\)"),
        ({"fc.extra": (1,)}, r"unexpected: fc.extra \(1,\)"),
    ],
)
def test_bad_state_dicts_are_refused(changes, message):
    state_dict = make_network().state_dict()
    for name, shape in changes.items():
        if shape is None:
            del state_dict[name]
        else:
            state_dict[name] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        unrolled.network(state_dict, torch.zeros(1, 1, 4).double())
