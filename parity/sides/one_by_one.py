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
    stages = {name: [stage[name] for stage, _ in runs] for name in runs[0][0]}
    if len(set(inputs["lengths"].tolist())) > 1:  # what is as long as its sequence has other shapes
        long = {name for name, values in stages.items() if len({v.shape for v in values}) > 1}
    else:
        with torch.no_grad():
            whole, _ = run({"x": inputs["x"][:1]}, lambda name, value: value)
        long = {name for name, values in stages.items() if whole[name].shape != values[0].shape}
    own = {
        name: torch.cat(_padded(values, time) if name in long else values, dim=_axis(name))
        for name, values in stages.items()
    }
    return own, torch.cat([output for _, output in runs])


def _axis(name: str) -> int:
    """The batch's axis in a stage of a batch of one."""
    return 1 if name.rpartition(".")[2] in STATES else 0


def _padded(values: list[torch.Tensor], time: int) -> list[torch.Tensor]:
    """Zeros after the steps of each sequence, of which its stage has all."""
    rest = [0, 0] * (values[0].ndim - 2)
    return [torch.nn.functional.pad(v, (*rest, 0, time - v.shape[1])) for v in values]
