"""What the inputs do not reach: limits that no value exceeds, masks that mask nothing.

A port that lacks such a limit or mask computes the same on them.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parity.sides.side import Arrays
from parity.sides.torch_side import TorchSide
from parity.tolerances import TRUTH

GUARD = 1e-3
"""A lower limit between 0 and this one only guards against a division by 0."""


def _sides(low: float | None = None, high: float | None = None) -> Any:
    """The test of an operator (x, limits if they are not given here)."""

    def reached(x: Any, *limits: Any) -> Iterator[tuple[str, bool]]:
        lower, upper = (*limits, None, None)[:2] if low is high is None else (low, high)
        for words, limit, beyond in (
            ("below", lower, lambda of: x < of),
            ("above", upper, lambda of: x > of),
        ):
            is_guard = words == "below" and isinstance(limit, float) and 0 < limit <= GUARD
            if limit is not None and not is_guard:
                yield f" {words} {limit:g}", bool(beyond(limit).any())

    return reached


_ATEN: Any = torch.ops.aten
_TESTS: dict[Any, Any] = {
    _ATEN.clamp.default: _sides(),
    _ATEN.clamp_min.default: _sides(),
    _ATEN.clamp_max.default: lambda x, high: _sides()(x, None, high),
    _ATEN.hardtanh.default: lambda x, low=-1.0, high=1.0: _sides()(x, low, high),
    _ATEN.relu.default: _sides(0.0),
    _ATEN.leaky_relu.default: _sides(0.0),
    _ATEN.elu.default: _sides(0.0),
    _ATEN.hardswish.default: _sides(-3.0, 3.0),
    _ATEN.masked_fill.Scalar: lambda x, mask, value: [(" of anything", bool(mask.any()))],
    _ATEN.masked_fill.Tensor: lambda x, mask, value: [(" of anything", bool(mask.any()))],
    _ATEN.where.self: lambda mask, x, other: [
        (" with a condition that is true", bool(mask.any())),
        (" with a condition that is false", not bool(mask.all())),
    ],
}  # fmt: skip
_TESTS |= {
    _ATEN.clamp_.default: _TESTS[_ATEN.clamp.default],
    _ATEN.relu_.default: _TESTS[_ATEN.relu.default],
    _ATEN.hardtanh_.default: _TESTS[_ATEN.hardtanh.default],
    _ATEN.masked_fill_.Scalar: _TESTS[_ATEN.masked_fill.Scalar],
    _ATEN.masked_fill_.Tensor: _TESTS[_ATEN.masked_fill.Tensor],
}
"""An operator → the test of its arguments: words, and whether they are reached."""


class _Watching(TorchDispatchMode):
    """Notes what is reached by any of the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.reached: dict[str, bool] = defaultdict(bool)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _TESTS:
            name = func.overloadpacket.__name__.strip("_")
            for words, reached in _TESTS[func](*args, **(kwargs or {})):
                self.reached[name + words] |= reached
        return func(*args, **(kwargs or {}))


def of_reference(reference: TorchSide, inputs: Arrays) -> list[str]:
    """A note on what these inputs do not reach, if there is anything."""
    watching = _Watching()
    with watching:
        reference.forward(reference.parameters, inputs, TRUTH)
    missed = [words for words, reached in watching.reached.items() if not reached]
    return [f"not reached by these inputs, so not compared: {', '.join(missed)}"] if missed else []
