"""The unrolled LSTM against torch.nn.LSTM, over its options and sizes, forward and backward."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from torch_ref import unrolled

SWITCHES = ("bias", "bidirectional", "projected", "with_state", "with_lengths")


def make_case(seed, batch, time, inputs, hidden, layers, switches):
    """An nn.LSTM in float64, its input, initial state and lengths, by the options that are on."""
    on = dict(zip(SWITCHES, switches, strict=True))
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    projected = on["projected"] and hidden > 1  # torch wants proj_size < hidden_size
    lstm = torch.nn.LSTM(
        inputs,
        hidden,
        num_layers=layers,
        bias=on["bias"],
        batch_first=True,
        bidirectional=on["bidirectional"],
        proj_size=hidden - 1 if projected else 0,
        dtype=torch.float64,
    )
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.copy_(0.5 * normal(*parameter.shape))
    x = normal(batch, time, inputs)
    lengths = None
    if on["with_lengths"]:
        lengths = torch.randint(1, time + 1, (batch,), generator=generator)
        x = x.masked_fill(torch.arange(time)[:, None] >= lengths[:, None, None], torch.nan)
    cells = layers * (2 if on["bidirectional"] else 1)
    state = None
    if on["with_state"]:
        state = (normal(cells, batch, hidden - projected), normal(cells, batch, hidden))
    return lstm, x, state, lengths


def run_torch(lstm, x, state, lengths):
    if lengths is None:
        output, (h_n, c_n) = lstm(x, state)
    else:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        packed, (h_n, c_n) = lstm(packed, state)
        output, _ = pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])
    return {"lstm.output": output, "lstm.h_n": h_n, "lstm.c_n": c_n}


def run_unrolled(lstm, x, state, lengths):
    trace = unrolled.lstm(dict(lstm.named_parameters()), x, initial_state=state, lengths=lengths)
    return {name: trace[name] for name in ("lstm.output", "lstm.h_n", "lstm.c_n")}


def assert_equal_to_torch(assert_same, lstm, x, state, lengths):
    results = []
    for run in (run_torch, run_unrolled):
        x = x.detach().clone().requires_grad_()
        leaves = dict(lstm.named_parameters()) | {"x": x}
        if state is not None:
            state = tuple(value.detach().clone().requires_grad_() for value in state)
            leaves |= {"h_0": state[0], "c_0": state[1]}
        outputs = run(lstm, x, state, lengths)
        generator = torch.Generator().manual_seed(1)
        loss = sum(
            (torch.rand(value.shape, generator=generator, dtype=value.dtype) * value).sum()
            for value in outputs.values()
        )
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        results.append((outputs, grads))
    (expected, expected_grads), (actual, grads) = results
    assert_same(actual, expected)
    assert_same(grads, expected_grads)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    "switches",
    list(itertools.product([False, True], repeat=len(SWITCHES))),
    ids=lambda switches: "-".join(itertools.compress(SWITCHES, switches)) or "bare",
)
def test_every_combination_of_options(assert_same, layers, switches):
    case = make_case(0, batch=3, time=5, inputs=4, hidden=6, layers=layers, switches=switches)
    assert_equal_to_torch(assert_same, *case)


@example(0, 1, 1, 1, 1, 1, (True, True, False, False, False))
@example(0, 1, 1, 3, 2, 2, (True, True, True, True, True))
@example(0, 1, 9, 1, 4, 1, (True, True, False, True, True))
@given(
    seed=st.integers(0, 3),
    batch=st.integers(1, 4),
    time=st.integers(1, 9),
    inputs=st.integers(1, 8),
    hidden=st.integers(1, 8),
    layers=st.integers(1, 3),
    switches=st.tuples(*[st.booleans()] * len(SWITCHES)),
)
def test_every_size(assert_same, seed, batch, time, inputs, hidden, layers, switches):
    case = make_case(seed, batch, time, inputs, hidden, layers, switches)
    assert_equal_to_torch(assert_same, *case)


def test_network_names_give_the_same(assert_same):
    lstm, x, state, _ = make_case(0, 2, 3, 4, 5, 2, (True, True, True, True, False))
    bare = lstm.state_dict()
    network = {f"lstm.{name}": value for name, value in bare.items()} | {"fc.bias": x[0, 0]}
    assert_same(
        unrolled.lstm(network, x, initial_state=state),
        unrolled.lstm(bare, x, initial_state=state),
    )


def test_empty_batch():
    lstm, x, _, _ = make_case(0, 2, 3, 4, 5, 1, (True, True, False, False, False))
    trace = unrolled.lstm(lstm.state_dict(), x[:0])
    output, (h_n, _) = lstm(x[:0])
    assert trace["lstm.output"].shape == output.shape
    assert trace["lstm.h_n"].shape == h_n.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes_stay_and_come_close(dtype):
    lstm, x, _, _ = make_case(0, 3, 5, 4, 6, 2, (True, True, False, False, False))
    truth = unrolled.lstm(lstm.state_dict(), x)
    trace = unrolled.lstm(unrolled.leaves(lstm.state_dict(), dtype), x.to(dtype))
    assert {value.dtype for value in trace.values()} == {dtype}
    error = (trace["lstm.output"] - truth["lstm.output"]).abs().max()
    assert 0 < error < 10 * torch.finfo(dtype).eps  # ten steps (2 layers × 5), outputs below 1


BARE = (True, True, False, False, False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=torch.zeros(3, 5, 7).double()), r"x .*\(any, at least 1, 4\), got \(3, 5, 7\)"),
        (dict(x=torch.zeros(3, 0, 4).double()), r"x must .* got \(3, 0, 4\)"),
        (dict(x=torch.zeros(5, 4).double()), r"x must .* got \(5, 4\)"),
        (dict(x=torch.zeros(3, 5, 4)), r"x must have .* torch.float64, got torch.float32"),
        (dict(lengths=[1, 0, 5]), r"lengths must be between 1 and time=5, got \[1, 0, 5\]"),
        (dict(lengths=[1, 6, 5]), r"lengths must be between 1 and time=5, got \[1, 6, 5\]"),
        (dict(lengths=[1, -1, 5]), r"lengths must be between 1 and time=5, got \[1, -1, 5\]"),
        (dict(lengths=[1, 2]), r"lengths must have shape \(batch,\)=\(3,\), got \(2,\)"),
        (dict(lengths=torch.ones(3)), r"lengths must be integers, got torch.float32"),
        (
            dict(initial_state=(torch.zeros(2, 3, 6).double(), torch.zeros(1, 3, 6).double())),
            r"c_0 must have shape .*\(2, 3, 6\) .* got \(1, 3, 6\)",
        ),
        (
            dict(initial_state=(torch.zeros(2, 3, 6), torch.zeros(2, 3, 6))),
            r"h_0 must have .* dtype torch.float64, got .* torch.float32",
        ),
    ],
)
def test_bad_inputs_are_refused(change, message):
    lstm, x, _, _ = make_case(0, 3, 5, 4, 6, 1, BARE)
    with pytest.raises(ValueError, match=message):
        unrolled.lstm(lstm.state_dict(), **{"x": x, **change})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias_hh_l1_reverse": None}, r"missing: bias_hh_l1_reverse \(24,\)"),
        ({"weight_ih_l0": None}, r"must hold weight_ih_l0 of shape \(4·hidden_size, input_size\)"),
        ({"weight_ih_l7": (24, 12)}, r"missing: weight_ih_l2 "),
        ({"weight": (1,)}, r"unexpected: weight \(1,\)"),
        ({"weight_hh_l0": (6, 24)}, r"weight_hh_l0: expected shape \(24, 6\), got \(6, 24\)"),
        ({"weight_ih_l1": (24, 6)}, r"weight_ih_l1: expected shape \(24, 12\), got \(24, 6\)"),
        ({"weight_hr_l0": (6, 6)}, r"missing: weight_hr_l1_reverse \(6, 6\)"),
    ],
)
def test_bad_state_dicts_are_refused_with_every_problem(changes, message):
    lstm, x, _, _ = make_case(0, 3, 5, 4, 6, 2, BARE)
    state_dict = dict(lstm.state_dict())
    for name, shape in changes.items():
        if shape is None:
            del state_dict[name]
        else:
            state_dict[name] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        unrolled.lstm(state_dict, x)


def test_mixed_dtypes_are_refused():
    lstm, x, _, _ = make_case(0, 3, 5, 4, 6, 1, BARE)
    state_dict = dict(lstm.state_dict())
    state_dict["bias_ih_l0"] = state_dict["bias_ih_l0"].float()
    state_dict["bias_hh_l0"] = state_dict["bias_hh_l0"].long()
    with pytest.raises(ValueError, match="bias_hh_l0: expected a floating dtype") as error:
        unrolled.lstm(state_dict, x)
    assert "expected one dtype" in str(error.value)
