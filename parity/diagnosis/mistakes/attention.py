"""Mistakes in attention weights and in matrix products."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from parity.diagnosis.mistakes.calls import PRODUCTS, Calls, Mistakes
from parity.diagnosis.mistakes.rounding import SIGNIFICANT_BITS, rounded


def _on_softmax(change: Callable[[Calls, Tensor, int], Tensor]) -> Calls:
    """`change(state, scores, axis)` in place of a softmax."""

    def call(state: Calls, func: Any, args: Any, kwargs: Any) -> Tensor:
        axis = kwargs.get("dim", args[1] if len(args) > 1 else -1)
        return change(state, args[0], axis % args[0].ndim)

    return Calls(("softmax",), call)


def _masked(scores: Tensor, axis: int, later: bool) -> Tensor:
    """A softmax with the scores on the diagonal, or after it, masked."""
    if axis != scores.ndim - 1 or scores.ndim < 2 or scores.shape[-1] != scores.shape[-2]:
        raise ValueError("the scores are not those of a sequence with itself")
    ones = torch.ones_like(scores, dtype=torch.bool)
    mask = ones.triu(1) if later else ones.tril() & ones.triu()
    return scores.masked_fill(mask, -torch.inf).softmax(axis)


def _over_queries(scores: Tensor, axis: int) -> Tensor:
    if scores.ndim < 3:
        raise ValueError("there is one query")
    return scores.softmax(axis - 1)


def _scaled_softmax(
    factor: Callable[[float], float], state: Calls, scores: Tensor, axis: int
) -> Tensor:
    return (scores * factor(state.features)).softmax(axis)


def _low_softmax(bits: int, state: Calls, scores: Tensor, axis: int) -> Tensor:
    return rounded(rounded(scores, bits).softmax(axis), bits)


def _over_padding(longest: int, scores: Tensor, axis: int) -> Tensor:
    """A softmax over the padding too, up to `longest` steps, where every score is 0."""
    length = scores.shape[axis]
    if length >= longest:
        return scores.softmax(axis)
    padding = [0, 0] * (scores.ndim - 1 - axis) + [0, longest - length]
    return torch.nn.functional.pad(scores, padding).softmax(axis).narrow(axis, 0, length)


def _by_padding(longest: int, scores: Tensor, axis: int) -> Tensor:
    """The weights of a query in the padding, whose scores are all 0, if the sequence is padded."""
    return (scores if scores.shape[axis] >= longest else 0 * scores).softmax(axis)


def of_softmax(longest: int = 0) -> Mistakes:
    """What can be wrong in attention weights; `longest` is the batch's number of time steps."""
    for words, factor in (
        (
            "scores are 1/√d of what they should be, d the features of the product",
            lambda d: d**-0.5,
        ),
        (
            "scores are 1/√d of what they should be, d half of those features",
            lambda d: (d / 2) ** -0.5,
        ),
        ("scores are √d times what they should be", lambda d: d**0.5),
        ("scores are 1/d of what they should be", lambda d: 1 / d),
    ):
        yield words, _on_softmax(partial(_scaled_softmax, factor))
    yield (
        "the softmax runs over the queries, not over the keys",
        _on_softmax(lambda c, s, axis: _over_queries(s, axis)),
    )
    yield "the softmax runs over the batch", _on_softmax(lambda c, s, axis: s.softmax(0))
    yield (
        "no step attends to itself",
        _on_softmax(lambda c, s, axis: _masked(s, axis, later=False)),
    )
    yield (
        "no step attends to later ones (a causal mask)",
        _on_softmax(lambda c, s, axis: _masked(s, axis, later=True)),
    )
    yield (
        "later steps are masked after the softmax, so that the weights do not add up to 1",
        _on_softmax(lambda c, s, axis: (_masked(s, axis, later=True) > 0) * s.softmax(axis)),
    )
    yield (
        "padding is attended to, on zeros",
        _on_softmax(lambda c, s, axis: _over_padding(longest, s, axis)),
    )
    yield (
        "the query is the batch's last step, which is padding in shorter sequences",
        _on_softmax(lambda c, s, axis: _by_padding(longest, s, axis)),
    )
    yield "the weights are sigmoids, not a softmax", _on_softmax(lambda c, s, axis: s.sigmoid())
    yield "the softmax is missing", _on_softmax(lambda c, s, axis: s)
    yield (
        "the softmax is taken twice",
        _on_softmax(lambda c, s, axis: s.softmax(axis).softmax(axis)),
    )
    yield (
        "no gradient flows through the weights",
        _on_softmax(lambda c, s, axis: s.softmax(axis).detach()),
    )
    for words, bits in SIGNIFICANT_BITS.items():
        yield (
            f"the softmax is computed in {words}",
            _on_softmax(partial(_low_softmax, bits)),
        )


def of_products(model: torch.nn.Module) -> Mistakes:
    """What can be wrong in matrix products; `model` has layers that may be applied to keys."""

    def changed(
        weighing: bool | None, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    ) -> Calls:
        def call(state: Calls, func: Any, args: Any, kwargs: Any) -> Any:
            if func.__name__ == "einsum" or weighing not in (None, state.weighing):
                return func(*args, **kwargs)
            return func(*change(args[0], args[1]), **kwargs)

        return Calls(PRODUCTS, call, attention=weighing is not None)

    yield "no gradient flows into the keys", changed(False, lambda a, b: (a, b.detach()))
    yield "no gradient flows into the queries", changed(False, lambda a, b: (a.detach(), b))
    yield "no gradient flows into the values", changed(True, lambda a, b: (a, b.detach()))
    factors = {"first": lambda a, b: (a.detach(), b), "second": lambda a, b: (a, b.detach())}
    for which, change in factors.items():
        yield f"no gradient flows into the {which} factor of the product", changed(None, change)
    for path, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear):
            yield (
                f"{path} is applied to the keys, though the reference does not",
                changed(False, partial(_with_keys, layer)),
            )
    for words, bits in SIGNIFICANT_BITS.items():
        yield (
            f"products between layers are computed in {words}",
            changed(None, partial(_low_operands, bits)),
        )


def _low_operands(bits: int, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return rounded(a, bits), rounded(b, bits)


def _with_keys(layer: torch.nn.Linear, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return a, _on_keys(layer, b)


def _on_keys(layer: torch.nn.Linear, keys: Tensor) -> Tensor:
    if keys.shape[-2] != layer.in_features or layer.in_features != layer.out_features:
        raise ValueError("the layer does not fit the keys")
    bias = None if layer.bias is None else layer.bias.to(keys)
    return torch.nn.functional.linear(keys.mT, layer.weight.to(keys), bias).mT
