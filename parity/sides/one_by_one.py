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
    time, lengths = inputs["x"].shape[1], inputs["lengths"].tolist()
    runs = []
    for i, length in enumerate(lengths):

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
    found = [stages for stages, _ in runs]
    others = found
    if len(set(lengths)) == 1 and lengths[0] < time:  # a longer run shows what has an axis of time
        with torch.no_grad():
            others = [*found, run({"x": inputs["x"][:1]}, lambda name, value: value)[0]]
    own = {}
    for name in found[0]:
        values = [stages[name] for stages in found]
        if len({stages[name].shape for stages in others}) > 1:
            values = _padded(values, time)
        own[name] = torch.cat(values, dim=_axis(name))
    return own, torch.cat([output for _, output in runs])


def _axis(name: str) -> int:
    """The batch's axis in a stage of a batch of one."""
    return 1 if name.rpartition(".")[2] in STATES else 0


def _padded(values: list[torch.Tensor], time: int) -> list[torch.Tensor]:
    """Zeros after the steps of each sequence, of which its stage has all."""
    rest = [0, 0] * (values[0].ndim - 2)
    return [torch.nn.functional.pad(v, (*rest, 0, time - v.shape[1])) for v in values]
