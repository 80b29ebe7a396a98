"""Mistakes in the head: which step it reads, and its Linear."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from parity import bilstm_reference as right
from parity.bilstm_reference import Inputs
from parity.mistakes.cell import Known
from torch_ref.inputs import valid_steps


def _last(inputs: Inputs) -> Tensor:
    y = inputs["y"]
    return y[torch.arange(len(y)), valid_steps(y, inputs.get("lengths")).sum(dim=1) - 1]


def _final_states(inputs: Inputs) -> Tensor:
    half = inputs["y"].shape[-1] // 2
    return torch.cat([_last(inputs)[:, :half], inputs["y"][:, 0, half:]], dim=-1)


HEADS: dict[str, Callable[[Inputs], Tensor]] = {
    "the head reads the first step's context": lambda i: i["all"][:, 0],
    "the head reads the mean of all contexts": lambda i: i["all"].mean(dim=1),
    "the head reads the sum of all contexts": lambda i: i["all"].sum(dim=1),
    "the head reads the largest of all contexts": lambda i: i["all"].amax(dim=1),
    "the head reads the batch's last step, padding or not": lambda i: i["all"][:, -1],
    "the head reads the context of the step before the last": lambda i: i["all"][:, -2],
    "the head reads the LSTM's last output, not the context": _last,
    "the head reads the final states of both directions, not the context": _final_states,
    "no gradient flows into the context": lambda i: i["context"].detach(),
}


def of_head() -> Known:
    """What can be wrong between the context and the output."""
    for words, read in HEADS.items():
        yield words, partial(_headed, read=read)

    def biased(model: torch.nn.Module, inputs: Inputs, factor: float) -> Tensor:
        fc: Any = model.get_submodule("fc")
        return linear(inputs["context"], fc.weight, factor * fc.bias)

    def turned(model: torch.nn.Module, inputs: Inputs) -> Tensor:
        fc: Any = model.get_submodule("fc")
        if fc.weight.shape[0] != fc.weight.shape[1]:
            raise ValueError("the weight is not square")
        return linear(inputs["context"], fc.weight.T, fc.bias)

    yield "the head's bias is missing", partial(biased, factor=0.0)
    yield "the head's bias is added twice", partial(biased, factor=2.0)
    yield "the head's weight is transposed", turned
    for function in (torch.sigmoid, torch.tanh, torch.relu):
        yield (
            f"{function.__name__} is applied to the output",
            lambda m, i, f=function: f(right.head(m, i)),
        )


def _headed(model: torch.nn.Module, inputs: Inputs, read: Callable[[Inputs], Tensor]) -> Tensor:
    return right.head(model, {**inputs, "context": read(inputs)})
