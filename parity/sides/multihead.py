"""The inputs and output of multi-head attention, in one layout for both frameworks.

`name.input.query`, `name.input.key`, `name.input.value` and `name`, the output, all
(batch, time, features). `torch.nn.MultiheadAttention` may have time before the batch, and also
returns weights; `nnx.MultiHeadAttention` takes keys and values that are left out from the queries.
Masks are not compared: what one framework ignores is what the other attends to.
"""

from typing import Any

import torch

from parity.sides.recurrent import bound, turned
from parity.sides.trees import Change


class TorchAttention:
    """The arrays of a call of a `torch.nn.MultiheadAttention`."""

    def __init__(self, module: torch.nn.MultiheadAttention) -> None:
        self.first = module.batch_first

    def arguments(self, name: str, args: tuple, kwargs: dict, change: Change) -> tuple[tuple, dict]:
        """(query, key, value) changed, and all others as they are."""
        names = ("query", "key", "value")
        given = zip(names, bound(args, kwargs, names), strict=True)
        found = [turned(x, self.first, _changing(f"{name}.input.{n}", change)) for n, x in given]
        return (*found, *args[3:]), {n: a for n, a in kwargs.items() if n not in names}

    def result(self, name: str, value: Any, change: Change) -> Any:
        """(output, weights) with the output changed."""
        y, weights = value
        return turned(y, self.first, _changing(name, change)), weights


class FlaxAttention:
    """The arrays of a call of an `nnx.MultiHeadAttention`."""

    def arguments(self, name: str, args: tuple, kwargs: dict, change: Change) -> tuple[tuple, dict]:
        """(inputs_q, inputs_k, inputs_v) changed, and all others as they are."""
        names = ("inputs_q", "inputs_k", "inputs_v")
        query, key, value = bound(args, kwargs, names)
        key = query if key is None else key
        given = {"query": query, "key": key, "value": key if value is None else value}
        found = [turned(x, True, _changing(f"{name}.input.{n}", change)) for n, x in given.items()]
        return (*found, *args[3:]), {n: a for n, a in kwargs.items() if n not in names}

    def result(self, name: str, value: Any, change: Change) -> Any:
        """The output, changed."""
        return turned(value, True, _changing(name, change))


def _changing(name: str, change: Change) -> Any:
    return lambda x: change(name, x)
