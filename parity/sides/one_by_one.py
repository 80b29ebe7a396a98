"""A batch of sequences that a model without lengths runs one by one, without padding."""

from collections.abc import Callable
from typing import Any

import torch

from parity.sides.recurrent import STATES
from parity.sides.torch_arrays import Tensors
from parity.sides.trees import Change

Run = Callable[[Tensors, Change], tuple[dict[str, torch.Tensor], Any]]
"""(inputs, change of every stage) → what every stage computed, and the output."""


def run_each(
    run: Run, inputs: Tensors, leaves: Tensors, put: Callable[[Any, Any], torch.Tensor]
) -> tuple[dict[str, torch.Tensor], Any]:
    """Run every sequence alone, unpadded; pad the stages with zeros and join them.

    Args:
        run: runs the model.
        inputs: `x` (batch, time, features) and `lengths` (batch,).
        leaves: values for stages, of the whole batch.
        put: (what a stage computed, its part of `leaves` or None) → what the run continues with.

    Returns:
        The stages and the output of the whole batch.
    """
    time = inputs["x"].shape[1]
    runs = []
    for i, length in enumerate(inputs["lengths"].tolist()):

        def substitute(
            name: str, value: torch.Tensor, i: int = i, length: int = length
        ) -> torch.Tensor:
            leaf = leaves.get(name)
            if leaf is not None:
                leaf = leaf.narrow(_axis(name), i, 1)
                leaf = leaf if leaf.shape == value.shape else leaf[:, :length]
            return put(value, leaf)

        one = {"x": inputs["x"][i : i + 1, :length]}
        runs.append(run(one, substitute))
    own = {name: _together([run[name] for run, _ in runs], name, time) for name in runs[0][0]}
    return own, torch.cat([output for _, output in runs])


def _axis(name: str) -> int:
    """The batch's axis in a stage of a batch of one."""
    return 1 if name.rpartition(".")[2] in STATES else 0


def _together(values: list[torch.Tensor], name: str, time: int) -> torch.Tensor:
    """One stage of sequences that were run one by one, as a batch."""
    if len({value.shape for value in values}) > 1:
        rest = [0, 0] * (values[0].ndim - 2)
        pad = torch.nn.functional.pad
        values = [pad(value, (*rest, 0, time - value.shape[1])) for value in values]
    return torch.cat(values, dim=_axis(name))
