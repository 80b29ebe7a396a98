"""The inputs and outputs of an LSTM, in one layout for both frameworks.

`name.input` (batch, time, features), zeros in the padding; `name.h_0`, `name.c_0` and
`name.lengths` if there are any; `name.output` (batch, time, ·), `name.h_n`, `name.c_n`
(layers·directions, batch, ·). `torch.nn.LSTM` takes a packed sequence where `flax_bilstm.LSTM`
takes lengths, and either may have time before the batch.

A cell has `name.input`, `name.before.hidden` and `name.before.cell` if there are any, and
`name.hidden`, `name.cell`: PyTorch's state is (h, c), Flax's carry is (c, h).
"""

from typing import Any

import jax.numpy as jnp
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import flax_bilstm as fb
from flax_bilstm.recurrence.equations import validity
from parity.sides.trees import Change

STATES = ("h_0", "c_0", "h_n", "c_n")
"""Last parts of the names of values whose second axis is the batch."""


class TorchLSTM:
    """The arrays of a call of a `torch.nn.LSTM`."""

    def __init__(self, module: torch.nn.LSTM) -> None:
        self.module = module

    def arguments(self, name: str, args: tuple, kwargs: dict, change: Change) -> tuple[tuple, dict]:
        """(input, state) with every array changed."""
        x, state = bound(args, kwargs, ("input", "hx"))
        first = self.module.batch_first
        if isinstance(x, PackedSequence):
            padded, lengths = pad_packed_sequence(x, batch_first=True)
            padded = change(f"{name}.input", padded)
            change(f"{name}.lengths", lengths)
            x = pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=False)
        else:
            x = turned(x, first, lambda x: change(f"{name}.input", x))
        if state is not None:
            state = _batched(name, ("h_0", "c_0"), state, change)
        return (x, state), {}

    def result(self, name: str, value: Any, change: Change) -> Any:
        """(output, (h_n, c_n)) with every array changed."""
        y, state = value
        if isinstance(y, PackedSequence):
            padded, lengths = pad_packed_sequence(y, batch_first=True)
            padded = change(f"{name}.output", padded)
            y = pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=False)
        else:
            y = turned(y, self.module.batch_first, lambda y: change(f"{name}.output", y))
        return y, _batched(name, ("h_n", "c_n"), state, change)


class FlaxLSTM:
    """The arrays of a call of a `flax_bilstm.LSTM`."""

    def __init__(self, module: fb.LSTM) -> None:
        self.module = module

    def arguments(self, name: str, args: tuple, kwargs: dict, change: Change) -> tuple[tuple, dict]:
        """(x, initial_state, lengths, mask) with every array changed but the mask."""
        names = ("x", "initial_state", "lengths", "mask")
        x, state, lengths, mask = bound(args, kwargs, names)

        def masked(x: Any) -> Any:
            if lengths is not None:
                own = jnp.swapaxes(validity(jnp.asarray(lengths), x.shape[1]), 0, 1)
                x = jnp.where(own, x, jnp.zeros_like(x))
            elif mask is not None:
                x = jnp.where(jnp.asarray(mask, bool)[:, :, None], x, jnp.zeros_like(x))
            return change(f"{name}.input", x)

        x = turned(x, not self.module.time_major, masked)
        if lengths is not None:
            lengths = change(f"{name}.lengths", lengths)
        if state is not None:
            state = _batched(name, ("h_0", "c_0"), state, change)
        found = {"initial_state": state, "lengths": lengths, "mask": mask}
        return (x,), {key: value for key, value in found.items() if value is not None}

    def result(self, name: str, value: Any, change: Change) -> Any:
        """(outputs, (h_n, c_n)) with every array changed."""
        y, state = value
        y = turned(y, not self.module.time_major, lambda y: change(f"{name}.output", y))
        return y, _batched(name, ("h_n", "c_n"), state, change)


class TorchCell:
    """The arrays of a call of a `torch.nn.LSTMCell`."""

    def arguments(self, name: str, args: tuple, kwargs: dict, change: Change) -> tuple[tuple, dict]:
        """(input, (h, c)) with every array changed."""
        x, state = bound(args, kwargs, ("input", "hx"))
        x = change(f"{name}.input", x)
        if state is not None:
            h, c = state
            state = change(f"{name}.before.hidden", h), change(f"{name}.before.cell", c)
        return (x, state), {}

    def result(self, name: str, value: Any, change: Change) -> Any:
        """(h, c) with both changed."""
        h, c = value
        return change(f"{name}.hidden", h), change(f"{name}.cell", c)


class FlaxCell:
    """The arrays of a call of a `flax_bilstm.LSTMCell`."""

    def arguments(self, name: str, args: tuple, kwargs: dict, change: Change) -> tuple[tuple, dict]:
        """((c, h), input) with every array changed."""
        (c, h), x = bound(args, kwargs, ("carry", "inputs"))
        x = change(f"{name}.input", x)
        h, c = change(f"{name}.before.hidden", h), change(f"{name}.before.cell", c)
        return ((c, h), x), {}

    def result(self, name: str, value: Any, change: Change) -> Any:
        """((c, h), h) with c and h changed; an output other than the carry's h is kept."""
        (c, h), output = value
        changed = change(f"{name}.hidden", h)
        return (change(f"{name}.cell", c), changed), changed if output is h else output


def bound(args: tuple, kwargs: dict, names: tuple[str, ...]) -> list[Any]:
    """The arguments by position, None for missing ones."""
    return [args[i] if i < len(args) else kwargs.get(name) for i, name in enumerate(names)]


def turned(x: Any, batch_first: bool, change: Any) -> Any:
    """x, changed in the layout (batch, time, features), in its original layout."""
    if x.ndim == 2:
        return change(x[None])[0]
    return change(x) if batch_first else change(x.swapaxes(0, 1)).swapaxes(0, 1)


def _batched(name: str, parts: tuple[str, str], state: Any, change: Change) -> Any:
    """Both parts of a state, changed in the layout (layers·directions, batch, features)."""
    return tuple(
        change(f"{name}.{part}", array)
        if array.ndim == 3
        else change(f"{name}.{part}", array[:, None])[:, 0]
        for part, array in zip(parts, state, strict=True)
    )
