"""The reference's equations written out step by step: every intermediate has a name and a gradient.

    weights = unrolled.leaves(model.state_dict(), torch.float64)
    trace = unrolled.network(weights, x)
    trace["lstm.layer0.reverse.t17.forget_gate"]                # (batch, hidden)
    unrolled.steps(trace, "lstm.layer0.reverse", "forget_gate")  # (batch, time, hidden)
    grads = unrolled.gradients({**weights, **trace}, trace["output"].sum())

A trace is a dict from name to tensor in order of computation; the reverse direction therefore runs
from the last step to t0. Later entries are computed from the tensors of earlier ones, so an entry's
gradient is its total gradient. The names:

    trace     = "input"                                (batch, time, input_size)
                "lstm.h_0", "lstm.c_0"                 (layers·directions, batch, state or hidden)
                "lstm.layer" k "." direction ".t" t "." quantity
                "lstm.layer" k ".output"               (batch, time, directions·state)
                "lstm.output"                          the last layer's output, the same tensor
                "lstm.h_n", "lstm.c_n"                 as h_0, c_0
                "attention.keys"                       (batch, time, features), score="general" only
                "attention.scores"                     (batch, query, key)
                "attention.weights"                    (batch, query, key)
                "attention.context"                    (batch, query, features)
                "fc.input"                             (batch, features), the last step's context
                "output"                               (batch, output_dim)
    direction = "forward" | "reverse"
    quantity  = gate "_gate.preactivation" | gate "_gate" | "cell"  (batch, hidden)
                "cell.tanh"                            (batch, hidden)
                "hidden.unprojected"                   (batch, hidden), with a projection only
                "hidden"                               (batch, state)
    gate      = "input" | "forget" | "cell" | "output"

state is proj_size if the LSTM has a projection, else hidden; features = directions·state.
With lengths, every entry is 0 in a sequence's padding (scores: where query or key is padding).
There is no dropout: the equations are those of an nn.LSTM in eval mode.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import linear

from torch_ref.inputs import State, check_input, first_state, valid_steps
from torch_ref.model import SCORES
from torch_ref.trace import Trace, gradients, leaves, steps
from torch_ref.weights import CellWeights, lstm_weights, network_weights

__all__ = ["Trace", "cell_step", "gradients", "leaves", "lstm", "network", "steps"]

GATES = {  # in PyTorch's order along axis 0 of the weights: i, f, g, o
    "input_gate": torch.sigmoid,
    "forget_gate": torch.sigmoid,
    "cell_gate": torch.tanh,
    "output_gate": torch.sigmoid,
}


def cell_step(
    weights: CellWeights,
    x: Float[Tensor, "batch inputs"],
    hidden: Float[Tensor, "batch state"],
    cell: Float[Tensor, "batch hidden"],
    valid: Bool[Tensor, "batch 1"],
) -> Trace:
    """One time step of one direction; quantity → tensor, 0 where valid is False.

    The equations of torch.nn.LSTM: i, f, o = sigmoid, g = tanh of W_ih x + b_ih + W_hh h + b_hh;
    c' = f c + i g; h' = o tanh(c'), times W_hr if there is a projection.
    """
    from_input = linear(x, weights.weight_ih, weights.bias_ih)
    from_hidden = linear(hidden, weights.weight_hh, weights.bias_hh)
    step: Trace = {}
    for (gate, activation), value in zip(
        GATES.items(), (from_input + from_hidden).chunk(4, dim=-1), strict=True
    ):
        step[f"{gate}.preactivation"] = value.masked_fill(~valid, 0)
        step[gate] = activation(step[f"{gate}.preactivation"]).masked_fill(~valid, 0)
    # All gates are 0 in the padding, so everything computed from them is 0 there too.
    step["cell"] = step["forget_gate"] * cell + step["input_gate"] * step["cell_gate"]
    step["cell.tanh"] = torch.tanh(step["cell"])
    new_hidden = step["output_gate"] * step["cell.tanh"]
    if weights.weight_hr is not None:
        step["hidden.unprojected"] = new_hidden
        new_hidden = linear(new_hidden, weights.weight_hr)
    step["hidden"] = new_hidden
    return step


def lstm(
    state_dict: Mapping[str, Tensor],
    x: Float[Tensor, "batch time inputs"],
    *,
    initial_state: State | None = None,
    lengths: Int[Tensor, " batch"] | Sequence[int] | None = None,
) -> Trace:
    """torch.nn.LSTM(batch_first=True), unrolled. The keys determine layers and options.

    Args:
        state_dict: with torch's names, bare (`weight_ih_l0`) or prefixed (`lstm.weight_ih_l0`).
        x: the sequences, in the weights' dtype.
        initial_state: (h_0, c_0) as torch.nn.LSTM takes them; 0 by default.
        lengths: the number of steps of each sequence, 1…time. As with packed sequences, the reverse
            direction starts at the sequence's last step, final states come from its steps only,
            and outputs in the padding are 0. Values in the padding, NaN included, have no effect.

    Returns:
        The trace up to "lstm.c_n", see the module's docstring.

    Raises:
        ValueError: an argument has a wrong shape or dtype, or the state dict is not an nn.LSTM's.
    """
    layers = lstm_weights(state_dict)
    check_input(layers, x)
    valid = valid_steps(x, lengths).unsqueeze(-1)  # (batch, time, 1)
    trace: Trace = {"input": x.masked_fill(~valid, 0)}
    trace["lstm.h_0"], trace["lstm.c_0"] = first_state(layers, x, initial_state)
    starts = zip(trace["lstm.h_0"].unbind(), trace["lstm.c_0"].unbind(), strict=True)
    ends = []
    inputs = trace["input"]
    for k, layer in enumerate(layers):
        for direction, weights in layer.items():
            stage = f"lstm.layer{k}.{direction}"
            hidden, cell = next(starts)
            times = range(x.shape[1])
            for t in reversed(times) if direction == "reverse" else times:
                step = cell_step(weights, inputs[:, t], hidden, cell, valid[:, t])
                trace |= {f"{stage}.t{t}.{quantity}": value for quantity, value in step.items()}
                hidden = torch.where(valid[:, t], step["hidden"], hidden)  # padding: state stays
                cell = torch.where(valid[:, t], step["cell"], cell)
            ends.append((hidden, cell))
        outputs = [steps(trace, f"lstm.layer{k}.{direction}", "hidden") for direction in layer]
        trace[f"lstm.layer{k}.output"] = inputs = torch.cat(outputs, dim=-1)
    trace["lstm.output"] = inputs
    trace["lstm.h_n"], trace["lstm.c_n"] = map(torch.stack, zip(*ends, strict=True))
    return trace


def network(
    state_dict: Mapping[str, Tensor],
    x: Float[Tensor, "batch time inputs"],
    *,
    lengths: Int[Tensor, " batch"] | Sequence[int] | None = None,
    score: str = "dot",
) -> Trace:
    """`torch_ref.BiLSTMWithAttention`, unrolled; with lengths, each sequence as if it were alone.

    Attention ignores padding, and the head reads the last step of each sequence.

    Args:
        state_dict: the network's state dict; its LSTM may have any of nn.LSTM's options.
        x, lengths: as `lstm`.
        score: "dot" or "general", as `torch_ref.Attention`.

    Returns:
        The whole trace, see the module's docstring.

    Raises:
        ValueError: as for `lstm`, or the score is neither of these.
    """
    if score not in SCORES:
        raise ValueError(f"score must be one of {SCORES}, got {score!r}")
    weights = network_weights(state_dict)
    trace = lstm(state_dict, x, lengths=lengths)
    valid = valid_steps(x, lengths)
    hidden = trace["lstm.output"]  # (batch, time, features)

    if score == "general":
        trace["attention.keys"] = linear(hidden, weights.attn_weight)
    keys = trace.get("attention.keys", hidden)
    trace["attention.scores"] = hidden @ keys.mT  # (batch, query, key)
    scores = trace["attention.scores"].masked_fill(~valid[:, None, :], -torch.inf)
    trace["attention.weights"] = scores.softmax(dim=-1).masked_fill(~valid[:, :, None], 0)
    trace["attention.context"] = trace["attention.weights"] @ hidden

    rows, last = torch.arange(len(x), device=x.device), valid.sum(dim=1) - 1
    trace["fc.input"] = trace["attention.context"][rows, last]
    trace["output"] = linear(trace["fc.input"], weights.fc_weight, weights.fc_bias)
    return trace
