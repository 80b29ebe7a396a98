"""Mistakes in the attention: its scores, its softmax, its query, and what is weighed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from parity import bilstm_reference as right
from parity.bilstm_reference import Inputs
from parity.mistakes.cell import Known
from torch_ref.inputs import valid_steps


def attend(
    model: torch.nn.Module,
    inputs: Inputs,
    *,
    last: Callable[[Tensor], Tensor] = lambda ends: ends,
    key: Callable[[torch.nn.Module, Tensor], Tensor] = lambda model, y: y,
    scores: Callable[[Tensor, Tensor], Tensor] = lambda s, y: s,
    weigh: Callable[[Tensor], Tensor] = lambda s: s.softmax(dim=-1),
    masked: bool = True,
) -> Tensor:
    """The attention weights of the last step with places to go wrong in: (batch, time)."""
    y = inputs["y"]
    valid = valid_steps(y, inputs.get("lengths"))
    query = y[torch.arange(len(y)), last(valid.sum(dim=1) - 1)]
    found = scores((key(model, y) @ query[..., None])[..., 0], y)
    return weigh(found.masked_fill(~valid, -torch.inf) if masked else found)


def _over_queries(model: torch.nn.Module, inputs: Inputs) -> Tensor:
    y = inputs["y"]
    valid = valid_steps(y, inputs.get("lengths"))
    scores = (y @ y.mT).masked_fill(~(valid[:, :, None] & valid[:, None, :]), -torch.inf)
    weights = scores.softmax(dim=1).nan_to_num(0.0)  # (batch, query, key), each key's sum is 1
    return weights[torch.arange(len(y)), valid.sum(dim=1) - 1]


def _without_itself(scores: Tensor, y: Tensor) -> Tensor:
    return torch.cat([scores[:, :-1], torch.full_like(scores[:, -1:], -torch.inf)], dim=1)


def _projected(model: torch.nn.Module, y: Tensor) -> Tensor:
    attn: Any = model.get_submodule("attention.attn")
    return attn(y)


def _scaled(power: float, share: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda s, y: s * (y.shape[-1] * share) ** power


def _sharpened(weights: Tensor) -> Tensor:
    return weights.softmax(dim=-1).softmax(dim=-1)


ATTENTION: dict[str, Callable[..., Tensor]] = {
    "the softmax runs over the queries, not over the keys": _over_queries,
    "scores are divided by √d, d the features of y": partial(attend, scores=_scaled(-0.5, 1)),
    "scores are divided by √d, d the features of one direction": partial(
        attend, scores=_scaled(-0.5, 0.5)
    ),
    "scores are multiplied by √d": partial(attend, scores=_scaled(0.5, 1)),
    "scores are divided by the number of features": partial(attend, scores=_scaled(-1, 1)),
    "the query is the first step": partial(attend, last=lambda ends: 0 * ends),
    "the query is the step before the last": partial(attend, last=lambda ends: ends - 1),
    "the query is the batch's last step, padding or not": partial(
        attend, last=lambda ends: ends.max().expand_as(ends)
    ),
    "padding is attended to": partial(attend, masked=False),
    "the last step does not attend to itself": partial(attend, scores=_without_itself),
    "the Linear of the attention, which the reference never calls, is applied": partial(
        attend, key=_projected
    ),
    "the weights are sigmoids, not a softmax": partial(attend, weigh=torch.sigmoid),
    "the softmax is missing": partial(attend, weigh=lambda s: s),
    "the softmax is taken twice": partial(attend, weigh=_sharpened),
    "no gradient flows through the weights": lambda m, i: right.attention_weights(m, i).detach(),
    "no gradient flows into the keys": partial(attend, key=lambda model, y: y.detach()),
}


def of_weights() -> Known:
    """What can be wrong in the attention weights."""
    yield from ATTENTION.items()


def of_context() -> Known:
    """What can be wrong in the attention as a whole."""
    for words, weigh in ATTENTION.items():
        yield words, partial(right.attention_context, weigh=weigh)
    yield (
        "no gradient flows into the values",
        lambda m, i: (right.attention_weights(m, i)[:, None] @ i["y"].detach())[:, 0],
    )
    yield "the context is a sum, not a weighted mean", lambda m, i: i["y"].sum(dim=1)
    yield "the context is the plain mean", lambda m, i: i["y"].mean(dim=1)
