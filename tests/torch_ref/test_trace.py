"""What a trace's names stand for, and that the gradients found under them are the true ones."""

import pytest

torch = pytest.importorskip("torch")

from torch_ref import BiLSTMWithAttention, unrolled

GATES = ["input_gate", "forget_gate", "cell_gate", "output_gate"]  # i, f, g, o
STEP = [
    name for gate in GATES for name in (f"{gate}.preactivation", gate)
] + ["cell", "cell.tanh", "hidden"]  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(0)
    return BiLSTMWithAttention(4, 5, 3).double()


@pytest.fixture
def x():
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_names_in_order_of_computation(model, x):
    assert list(unrolled.network(model.state_dict(), x, score="general")) == [
        "input",
        "lstm.h_0",
        "lstm.c_0",
        *(f"lstm.layer0.forward.t{t}.{name}" for t in (0, 1, 2) for name in STEP),
        *(f"lstm.layer0.reverse.t{t}.{name}" for t in (2, 1, 0) for name in STEP),
        "lstm.layer0.output",
        "lstm.output",
        "lstm.h_n",
        "lstm.c_n",
        "attention.keys",
        "attention.scores",
        "attention.weights",
        "attention.context",
        "fc.input",
        "output",
    ]


def test_names_with_layers_and_projection(x):
    lstm = torch.nn.LSTM(4, 5, num_layers=2, proj_size=2, dtype=torch.float64)
    names = list(unrolled.lstm(lstm.state_dict(), x))
    step = [*STEP[:-1], "hidden.unprojected", "hidden"]
    assert names[3:-3] == [
        name
        for k in (0, 1)
        for name in [
            *(f"lstm.layer{k}.forward.t{t}.{quantity}" for t in (0, 1, 2) for quantity in step),
            f"lstm.layer{k}.output",
        ]
    ]


def test_each_gate_is_its_own_block_of_rows(model, x):
    trace = unrolled.network(model.state_dict(), x)
    w = model.state_dict()
    previous = trace["lstm.layer0.reverse.t2.hidden"]  # reverse: t1 follows t2
    rows = (
        x[:, 1] @ w["lstm.weight_ih_l0_reverse"].T
        + w["lstm.bias_ih_l0_reverse"]
        + previous @ w["lstm.weight_hh_l0_reverse"].T
        + w["lstm.bias_hh_l0_reverse"]
    )
    for block, gate in enumerate(GATES):
        expected = rows[:, 5 * block : 5 * (block + 1)]
        name = f"lstm.layer0.reverse.t1.{gate}"
        torch.testing.assert_close(trace[f"{name}.preactivation"], expected, rtol=1e-13, atol=1e-14)
        activation = torch.tanh if gate == "cell_gate" else torch.sigmoid
        torch.testing.assert_close(trace[name], activation(expected), rtol=1e-13, atol=1e-14)


def test_attention_by_its_names(model, x, assert_same):
    trace = unrolled.network(model.state_dict(), x)
    y = trace["lstm.output"]
    scores = torch.einsum("bqf,bkf->bqk", y, y)
    weights = scores.exp() / scores.exp().sum(2, keepdim=True)
    context = torch.einsum("bqk,bkf->bqf", weights, y)
    expected = {
        "attention.scores": scores,
        "attention.weights": weights,
        "attention.context": context,
        "fc.input": context[:, 2],
    }
    assert_same({name: trace[name] for name in expected}, expected)


def test_steps_are_in_order_of_time_in_both_directions(model, x):
    trace = unrolled.network(model.state_dict(), x)
    halves = [unrolled.steps(trace, f"lstm.layer0.{d}", "hidden") for d in ("forward", "reverse")]
    output, _ = model.lstm(x)
    torch.testing.assert_close(torch.cat(halves, dim=2), output, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    ("stage", "quantity"), [("lstm.layer1.forward", "cell"), ("lstm.layer0.forward", "carry")]
)
def test_steps_of_an_unknown_name(model, x, stage, quantity):
    trace = unrolled.network(model.state_dict(), x)
    with pytest.raises(KeyError, match=rf"no {stage}.t0.{quantity}.*layer0.reverse.t0.hidden"):
        unrolled.steps(trace, stage, quantity)


def test_gradients_of_gates_add_up_to_torchs_gradients_of_the_weights(model, x, assert_same):
    """The chain rule from a gate's named gradient to nn.LSTM's own weights and biases."""
    weights = unrolled.leaves(model.state_dict(), torch.float64)
    trace = unrolled.network(weights, x)
    grads = unrolled.gradients(trace, trace["output"].square().sum())
    model(x).square().sum().backward()
    for direction, suffix, shift in (("forward", "", 1), ("reverse", "_reverse", -1)):
        stage = f"lstm.layer0.{direction}"
        gates = torch.cat(
            [unrolled.steps(grads, stage, f"{gate}.preactivation") for gate in GATES], dim=2
        )
        hidden = unrolled.steps(trace, stage, "hidden").roll(shift, dims=1)
        hidden[:, 0 if shift == 1 else -1] = 0  # the initial state
        actual = {
            "bias_ih": gates.sum((0, 1)),
            "bias_hh": gates.sum((0, 1)),
            "weight_ih": torch.einsum("btg,bti->gi", gates, x),
            "weight_hh": torch.einsum("btg,bth->gh", gates, hidden),
        }
        expected = {name: getattr(model.lstm, f"{name}_l0{suffix}").grad for name in actual}
        assert_same(actual, expected)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_gradients_of_a_step_are_those_of_backpropagation_written_out(assert_same, direction):
    """Backpropagation through time by hand, last computed step first."""
    lstm = torch.nn.LSTM(4, 5, bidirectional=True, dtype=torch.float64)
    x, pull = torch.randn(2, 6, 4).double(), torch.randn(2, 6, 5).double()
    trace = unrolled.lstm(unrolled.leaves(lstm.state_dict(), torch.float64), x)
    stage = f"lstm.layer0.{direction}"
    grads = unrolled.gradients(trace, (pull * unrolled.steps(trace, stage, "hidden")).sum())

    at = {name: unrolled.steps(trace, stage, name).detach() for name in STEP}
    weight_hh = getattr(lstm, "weight_hh_l0" + {"forward": "", "reverse": "_reverse"}[direction])
    order = [*range(6)] if direction == "forward" else [*reversed(range(6))]
    from_hidden = from_cell = torch.zeros(2, 5, dtype=torch.float64)
    for t, before in reversed(list(zip(order, [None, *order[:-1]], strict=True))):
        i, f, g, o = (at[gate][:, t] for gate in GATES)
        tanh = at["cell.tanh"][:, t]
        cell_before = at["cell"][:, before] if before is not None else 0 * tanh
        expected = {"hidden": pull[:, t] + from_hidden}
        expected["cell.tanh"] = expected["hidden"] * o
        expected["cell"] = expected["cell.tanh"] * (1 - tanh**2) + from_cell
        for gate, factor, slope in (
            ("input_gate", g, i * (1 - i)),
            ("forget_gate", cell_before, f * (1 - f)),
            ("cell_gate", i, 1 - g**2),
            ("output_gate", None, o * (1 - o)),
        ):
            upstream = (
                expected["cell"] * factor if factor is not None else expected["hidden"] * tanh
            )
            expected[gate], expected[f"{gate}.preactivation"] = upstream, upstream * slope
        assert_same({name: grads[f"{stage}.t{t}.{name}"] for name in expected}, expected)
        from_cell = expected["cell"] * f
        from_hidden = (
            torch.cat([expected[f"{gate}.preactivation"] for gate in GATES], dim=1)
            @ weight_hh.detach()
        )


def test_gradients_are_none_exactly_where_the_loss_does_not_depend_on_an_entry(model, x):
    weights = unrolled.leaves(model.state_dict(), torch.float64)
    trace = unrolled.network(weights, x)
    grads = unrolled.gradients({**weights, **trace}, trace["output"].sum())
    assert list(grads) == [*weights, *trace]
    assert [name for name, grad in grads.items() if grad is None] == [
        "attention.attn.weight",
        "attention.attn.bias",
        "input",  # x and the initial state are constants here
        "lstm.h_0",
        "lstm.c_0",
        "lstm.h_n",  # the network does not read the final states
        "lstm.c_n",
    ]
    # A second loss of the same trace: t1 of one direction knows nothing of what comes after it.
    grads = unrolled.gradients(trace, trace["lstm.layer0.reverse.t1.hidden"].sum())
    reached = {tuple(name.split(".")[:4]) for name, grad in grads.items() if grad is not None}
    assert reached == {("lstm", "layer0", "reverse", "t1"), ("lstm", "layer0", "reverse", "t2")}
    with pytest.raises(ValueError, match=r"reverse\.t0\.cell is None: the loss does not depend"):
        unrolled.steps(grads, "lstm.layer0.reverse", "cell")


def test_leaves_are_copies_in_the_dtype(model):
    state_dict = model.state_dict()
    leaves = unrolled.leaves(state_dict, torch.float32)
    assert all(leaf.requires_grad and leaf.dtype == torch.float32 for leaf in leaves.values())
    same_dtype = unrolled.leaves(state_dict, torch.float64)
    with torch.no_grad():
        for leaf in same_dtype.values():
            leaf.zero_()
    assert all(value.any() for value in state_dict.values())


def test_a_loss_without_gradient_is_refused(model, x):
    trace = unrolled.network(model.state_dict(), x)
    with pytest.raises(ValueError, match="compute the trace from leaves"):
        unrolled.gradients(trace, trace["output"].sum())
