"""The intermediate values of an LSTM in float64, from its unrolled equations.

The values that `parity.diagnosis.lstm.stages` reads; `cell` stands for lstm.layer<k>.<direction>:

    "x", "lengths", "h_0", "c_0"      the inputs
    cell ".input_gate" …, ".cell", ".hidden"    (batch, time, ·), as in `torch_ref.unrolled`
    cell ".before.hidden", ".before.cell"       the state that each step starts from
    cell ".carry", ".outputs"                   cell and hidden again, computed by other stages
    cell ".valid"                               (batch, time, 1), False in the padding
    cell ".step"                                cell and hidden, concatenated
    cell ".final_state"                         cell and hidden after the direction's last step
    "lstm.layer<k>.output"                      (batch, time, directions·state)
    "lstm.h_n", "lstm.c_n"
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from parity.diagnosis.stages import Truth
from parity.sides.side import Arrays, cast
from parity.tolerances import TRUTH
from torch_ref import unrolled
from torch_ref.inputs import valid_steps

QUANTITIES = ("input_gate", "forget_gate", "cell_gate", "output_gate", "cell", "hidden")


def truth(parameters: Arrays, inputs: Arrays, cotangents: Arrays) -> Truth:
    """Every value above, and the gradient at it, in float64.

    Args:
        parameters: an nn.LSTM's state dict.
        inputs: x (batch, time, features); optionally lengths, h_0 and c_0.
        cotangents: of "output", "h_n" and "c_n", in this layout; a missing one is 0.

    Raises:
        ValueError: x does not fit the parameters.
    """
    inputs, parameters = cast(inputs, TRUTH), cast(parameters, TRUTH)
    given = {name: torch.from_numpy(np.array(array)) for name, array in inputs.items()}
    held = {name: torch.from_numpy(np.array(array)) for name, array in parameters.items()}
    weights = unrolled.leaves(held, torch.float64)
    x, lengths = given["x"], given.get("lengths")
    state = (given["h_0"], given["c_0"]) if "h_0" in given else None
    trace = unrolled.lstm(weights, x, initial_state=state, lengths=lengths)
    total = 0 * trace["lstm.output"].sum()
    for name, cotangent in cotangents.items():
        total = total + (trace[f"lstm.{name}"] * torch.from_numpy(cotangent)).sum()
    gradients = {
        name: torch.zeros_like(trace[name]) if slope is None else slope
        for name, slope in unrolled.gradients(trace, total).items()
    }
    valid = valid_steps(x, lengths)  # (batch, time)
    values = {**_named(trace, valid), **_before(trace, valid)}
    return Truth(
        {**inputs, **{name: tensor.detach().numpy() for name, tensor in values.items()}},
        {name: tensor.detach().numpy() for name, tensor in _named(gradients, valid).items()},
    )


def cells(trace: Mapping[str, Tensor] | Arrays) -> list[str]:
    """The names of layers and directions, in PyTorch's order."""
    return list(dict.fromkeys(n.partition(".t0.")[0] for n in trace if ".t0." in n))


def in_pytorch_order(trace: Mapping[str, Tensor]) -> Iterator[tuple[int, str]]:
    """The number and the name of every direction of every layer."""
    return enumerate(cells(trace))


def _named(trace: Mapping[str, Tensor], valid: Tensor) -> dict[str, Tensor]:
    """The steps of a trace, or of its gradients, stacked over time, under the names above."""
    found = {name: tensor for name, tensor in trace.items() if ".t" not in name}
    for number, cell in in_pytorch_order(trace):
        for quantity in QUANTITIES:
            found[f"{cell}.{quantity}"] = unrolled.steps(trace, cell, quantity)
        found[f"{cell}.carry"] = found[f"{cell}.cell"]
        found[f"{cell}.outputs"] = found[f"{cell}.hidden"]
        found[f"{cell}.step"] = torch.cat([found[f"{cell}.cell"], found[f"{cell}.hidden"]], -1)
        finals = trace["lstm.c_n"][number], trace["lstm.h_n"][number]
        found[f"{cell}.final_state"] = torch.cat(finals, dim=-1)
    return found


def _before(trace: Mapping[str, Tensor], valid: Tensor) -> dict[str, Tensor]:
    """The state each step of each direction starts from, and which steps are not padding."""
    found = {}
    for number, cell in in_pytorch_order(trace):
        found[f"{cell}.valid"] = valid[..., None]
        for quantity, first in (("hidden", "lstm.h_0"), ("cell", "lstm.c_0")):
            after = unrolled.steps(trace, cell, quantity)  # (batch, time, ·)
            start = trace[first][number][:, None].expand(-1, after.shape[1], -1)
            if cell.endswith("reverse"):
                shifted = torch.cat([after[:, 1:], start[:, :1]], dim=1)
                own = torch.cat([valid[:, 1:], torch.zeros_like(valid[:, :1])], dim=1)
            else:
                shifted = torch.cat([start[:, :1], after[:, :-1]], dim=1)
                own = torch.cat([torch.zeros_like(valid[:, :1]), valid[:, :-1]], dim=1)
            found[f"{cell}.before.{quantity}"] = torch.where(own[..., None], shifted, start)
    return found
