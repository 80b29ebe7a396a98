"""Mistakes in the loop over time: its order, state, padding, and how directions are joined."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from parity.diagnosis.lstm import reference as right
from parity.diagnosis.lstm.reference import Cell, Inputs
from parity.diagnosis.mistakes.cell import Known, with_weights
from parity.diagnosis.mistakes.rounding import SIGNIFICANT_BITS, with_rounded_gradient


def _every(steps: int, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Any:
    return lambda n, h, c: change(h, c) if n and n % steps == 0 else (h, c)


def _at_start(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Any:
    return lambda n, h, c: change(h, c) if n == 0 else (h, c)


def _swap(h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    if h.shape != c.shape:
        raise ValueError("h and c have other sizes")
    return c, h


def _shifted(x: Tensor, by: int) -> Tensor:
    moved = x.roll(by, dims=1)
    return moved.index_fill(1, torch.tensor([0 if by > 0 else x.shape[1] - 1]), 0)


def _everywhere(valid: Tensor) -> Tensor:
    return torch.ones_like(valid)


WALKS: dict[str, dict[str, Any]] = {
    "the sequence is run from the first step to the last": {"times": lambda order: order},
    "the sequence is run from the last step to the first": {"times": lambda order: order[::-1]},
    "padding is run through like any step": {
        "prepare": lambda x, valid: (x.masked_fill(~valid, 0), _everywhere(valid)),
    },
    "x is read one step late": {"prepare": lambda x, valid: (_shifted(x, 1), valid)},
    "x is read one step early": {"prepare": lambda x, valid: (_shifted(x, -1), valid)},
    "h_0 and c_0 are exchanged": {"between": _at_start(_swap)},
    "h_0 and c_0 are not read": {"between": _at_start(lambda h, c: (0 * h, 0 * c))},
    "the state starts at 1": {"between": _at_start(lambda h, c: (h + 1, c + 1))},
    "h and c are exchanged between steps": {"between": _every(1, _swap)},
    **{
        words.format(n=2**k): {"between": _every(2**k, change)}
        for k in range(11)
        for words, change in (
            ("the state restarts from 0 every {n} steps", lambda h, c: (0 * h, 0 * c)),
            ("c restarts from 0 every {n} steps", lambda h, c: (h, 0 * c)),
            ("gradients stop every {n} steps", lambda h, c: (h.detach(), c.detach())),
        )
    },
}  # fmt: skip


def of_direction(cell: Cell, *, final: bool = False) -> Known:
    """What can be wrong in how a direction runs over time."""
    for words, options in WALKS.items():
        yield words, partial(right.direction, cell=cell, final=final, **options)
    other = cell._replace(direction="forward" if cell.reverse else "reverse")

    def backwards(model: torch.nn.Module, inputs: Inputs) -> Tensor:
        return right.direction(model, inputs, cell).flip(1)

    def unflipped(model: torch.nn.Module, inputs: Inputs) -> Tensor:
        reverse = right.direction(model, inputs, cell, times=lambda order: order)
        return reverse.flip(1)

    def others(model: torch.nn.Module, inputs: Inputs) -> Tensor:
        weights = right.weights_of
        try:
            weights(model, other)
        except KeyError:
            raise ValueError("there is no other direction") from None
        step = with_weights(lambda _: weights(model, other))
        return right.direction(model, inputs, cell, final=final, step=step)

    def low(model: torch.nn.Module, inputs: Inputs, bits: int) -> Tensor:
        return with_rounded_gradient(right.direction(model, inputs, cell, final=final), bits)

    for words, bits in SIGNIFICANT_BITS.items():
        yield f"the gradient is rounded to {words}", partial(low, bits=bits)
    yield f"the {other.direction} direction's weights are used", others
    if not final:
        yield "the outputs are in reverse order of time: not flipped back", backwards
        yield "the input is flipped twice or not at all, the outputs are flipped", unflipped


def of_output(names: Sequence[str]) -> Known:
    """What can be wrong in how the directions are put together."""
    for words, mix in {
        "the forward and reverse halves are swapped": lambda f, r: torch.cat([r, f], -1),
        "the forward half stands in both places": lambda f, r: torch.cat([f, f], -1),
        "the reverse half stands in both places": lambda f, r: torch.cat([r, r], -1),
        "both halves are their sum": lambda f, r: torch.cat([f + r, f + r], -1),
        "both halves are their mean": lambda f, r: torch.cat([f + r, f + r], -1) / 2,
        "the features of both directions alternate": lambda f, r: torch.stack([f, r], -1).flatten(
            -2
        ),
        "the reverse half is flipped in time": lambda f, r: torch.cat([f, r.flip(1)], -1),
        "the reverse half is missing": lambda f, r: torch.cat([f, 0 * r], -1),
        "no gradient flows into the reverse half": lambda f, r: torch.cat([f, r.detach()], -1),
        "no gradient flows into the forward half": lambda f, r: torch.cat([f.detach(), r], -1),
    }.items():
        if len(names) == 2:
            yield words, partial(_mixed, names=names, mix=mix)


def of_states(names: Sequence[str], hidden: int, cell: bool) -> Known:
    """What can be wrong in how final states are put together."""
    for words, order in {
        "layers and directions are in reverse order": names[::-1],
        "directions come before layers": [*names[::2], *names[1::2]],
    }.items():
        yield words, partial(right.stacked, names=order, hidden=hidden, cell=cell)
    other = partial(right.stacked, names=names, hidden=hidden, cell=not cell)
    yield f"it is the {'hidden' if cell else 'cell'} state", other


def _mixed(model: torch.nn.Module, inputs: Inputs, names: Sequence[str], mix: Any) -> Tensor:
    return mix(*(inputs[name] for name in names))
