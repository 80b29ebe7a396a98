"""The stages of an LSTM in PyTorch: `torch_ref.unrolled`'s equations on the values that it reads.

Each function takes the torch model, for its parameters, and the values that the stage reads, and
returns the stage's value. `parity.diagnosis.mistakes` passes its mistakes as the keywords.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from torch_ref.inputs import valid_steps
from torch_ref.unrolled import cell_step
from torch_ref.weights import CellWeights, lstm_weights

Inputs = Mapping[str, Tensor]
StepOf = Callable[[CellWeights, Tensor, Tensor, Tensor], Mapping[str, Tensor]]
"""(weights, x, hidden, cell) → at least the new "cell" and "hidden"; any leading axes."""


class Cell(NamedTuple):
    """One direction of one layer: its number among all directions, and its place."""

    number: int
    layer: int
    direction: str

    @property
    def name(self) -> str:
        """As in `torch_ref.unrolled`."""
        return f"lstm.layer{self.layer}.{self.direction}"

    @property
    def reverse(self) -> bool:
        """Whether it runs from the last step to the first."""
        return self.direction == "reverse"


def plain(weights: CellWeights, x: Tensor, hidden: Tensor, cell: Tensor) -> Mapping[str, Tensor]:
    """The cell's equations without mistakes."""
    everywhere = torch.ones_like(x[..., :1], dtype=torch.bool)
    return cell_step(weights, x, hidden, cell, everywhere)


def weights_of(model: torch.nn.Module, cell: Cell) -> CellWeights:
    """The parameters of a cell, with their gradients."""
    return lstm_weights(dict(model.named_parameters()))[cell.layer][cell.direction]


def quantity(
    model: torch.nn.Module,
    inputs: Inputs,
    cell: Cell,
    name: str,
    step: StepOf = plain,
) -> Tensor:
    """A gate, the new "cell" or "hidden", or both as "step", of every step: (batch, time, ·).

    "carry" is the cell state that is kept when the gates keep all of it: the old cell state.
    """
    if name == "carry":
        return inputs["cell"].masked_fill(~inputs["valid"], 0)
    new = step(weights_of(model, cell), inputs["x"], inputs["hidden"], inputs["cell"])
    value = torch.cat([new["cell"], new["hidden"]], dim=-1) if name == "step" else new[name]
    return value.masked_fill(~inputs["valid"], 0)


def layer_input(inputs: Inputs, cell: Cell) -> Tensor:
    """What the cell's layer reads: x, or both directions of the layer before."""
    before = [inputs[f"before.{d}"] for d in ("forward", "reverse") if f"before.{d}" in inputs]
    return torch.cat(before, dim=-1) if before else inputs["x"]


def direction(
    model: torch.nn.Module,
    inputs: Inputs,
    cell: Cell,
    *,
    final: bool = False,
    step: StepOf = plain,
    times: Callable[[range], Iterable[int]] | None = None,
    between: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]] = lambda n, h, c: (h, c),
    prepare: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lambda x, valid: (
        x.masked_fill(~valid, 0), valid,
    ),
) -> Tensor:  # fmt: skip
    """One direction over time: outputs (batch, time, ·), or the final cell and hidden state.

    Args:
        model: the torch model.
        inputs: x, or both directions of the layer before; optionally lengths, h_0 and c_0.
        cell: which direction of which layer.
        final: whether to return the final state.
        step: the cell's equations.
        times: changes the order in which the steps are run.
        between: (number of steps run, h, c) → what the next step starts from.
        prepare: (x, valid) → the x and valid (batch, time, 1) that the recurrence reads.
    """
    weights = weights_of(model, cell)
    x = layer_input(inputs, cell)
    own = valid_steps(x, inputs.get("lengths"))[..., None]  # (batch, time, 1)
    x, valid = prepare(x, own)
    h, c = initial(inputs, cell, weights, x)
    order = range(x.shape[1])
    outputs = {}
    for n, t in enumerate(times(order) if times else order[::-1] if cell.reverse else order):
        h, c = between(n, h, c)
        new = step(weights, x[:, t], h, c)
        outputs[t] = torch.where(valid[:, t], new["hidden"], 0)
        h = torch.where(valid[:, t], new["hidden"], h)
        c = torch.where(valid[:, t], new["cell"], c)
    if final:
        return torch.cat([c, h], dim=-1)
    return torch.stack([outputs[t] for t in order], dim=1).masked_fill(~own, 0)


def initial(inputs: Inputs, cell: Cell, weights: CellWeights, x: Tensor) -> tuple[Tensor, Tensor]:
    """The cell's (h_0, c_0); zeros if the inputs have none."""
    if "h_0" in inputs:
        return inputs["h_0"][cell.number], inputs["c_0"][cell.number]
    state, hidden = weights.state_sizes
    return x.new_zeros(len(x), state), x.new_zeros(len(x), hidden)


def side_by_side(model: torch.nn.Module, inputs: Inputs, names: Iterable[str]) -> Tensor:
    """The directions of a layer, concatenated along the features."""
    return torch.cat([inputs[name] for name in names], dim=-1)


def stacked(
    model: torch.nn.Module, inputs: Inputs, names: Iterable[str], hidden: int, cell: bool
) -> Tensor:
    """h_n or c_n: every direction's final state, whose first `hidden` features are the cell's."""
    part = slice(None, hidden) if cell else slice(hidden, None)
    return torch.stack([inputs[name][:, part] for name in names])
