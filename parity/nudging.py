"""A side moved by rounding: what its arithmetic is worth, seen by running it again.

A nudged side computes what the side does, with everything that it is given (parameters, inputs,
gradients) moved by at most one ULP of itself, and every value of an elementary function that torch
computes on the way: σ, tanh, softmax and the like are the operations that IEEE 754 leaves to the
libraries, and no two libraries round them alike. Sums and products stay as they are: their rounding
is the dtype's. Repeating a run with random roundings to see how many digits it has is Monte Carlo
arithmetic (Parker, 1997).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parity.sides import optimizers
from parity.sides.optimizers import Optimizer
from parity.sides.side import Arrays, Gradients, Side, Step, cast, floating
from parity.tolerances import TOLERANCES, epsilon

ELEMENTARY = frozenset(
    (
        "sigmoid", "tanh", "softmax", "log_softmax", "logsumexp", "log_sigmoid_forward",
        "log_sigmoid", "softplus", "silu", "gelu", "elu", "mish", "erf", "erfc", "erfinv",
        "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "pow", "rsqrt",
        "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "asinh", "acosh",
        "atanh", "native_layer_norm", "native_batch_norm", "native_group_norm",
    )
)  # fmt: skip
"""Names of torch's operators, without what marks a variant: _softmax, sigmoid_, gelu_backward."""


def runs(side: Side, dtype: str) -> list[Side]:
    """The side itself, and as many nudged ones as the dtype's row of the table asks for."""
    return [side, *(Nudged(side, seed) for seed in range(TOLERANCES[dtype].nudges))]


class Nudged(Side):
    """A side with data and elementary functions moved; its optimizers' step lengths too."""

    def __init__(self, side: Side, seed: int) -> None:
        super().__init__(f"{side.name}, nudged", side.parameters)
        self.side, self.seed = side, seed

    def forward(self, *given: Any) -> Any:
        """See `Side`."""
        return self._moved(self.side.forward, *given)

    def gradients(self, *given: Any) -> Any:
        """See `Side`."""
        return self._moved(self.side.gradients, *given)

    def local(self, *given: Any) -> Any:
        """See `Side`."""
        return self._moved(self.side.local, *given)

    def local_gradients(self, *given: Any) -> Any:
        """See `Side`."""
        return self._moved(self.side.local_gradients, *given)

    def train(
        self, parameters: Arrays, batches: Sequence[Arrays], optimizer: Optimizer, dtype: str
    ) -> Iterator[Step]:
        """See `Side`."""
        return self._steps(self.side.train, parameters, batches, optimizer, dtype)

    def update(
        self, parameters: Arrays, gradients: Sequence[Gradients], optimizer: Optimizer, dtype: str
    ) -> Iterator[Step]:
        """See `Side`."""
        return self._steps(self.side.update, parameters, gradients, optimizer, dtype)

    def _moved(self, run: Callable[..., Any], *given: Any) -> Any:
        *arrays, dtype = given
        with moved_functions(dtype, self.seed):
            return run(*(nudged(each, dtype, self.seed) for each in arrays), dtype)

    def _steps(
        self, run: Any, start: Arrays, data: Sequence[Gradients], optimizer: Optimizer, dtype: str
    ) -> Iterator[Step]:
        near = [nudged(each, dtype, self.seed) for each in data]
        twin = optimizers.nudged(optimizer, dtype, self.seed)
        steps = run(nudged(start, dtype, self.seed), near, twin, dtype)
        for number in range(len(near)):
            with moved_functions(dtype, self.seed + number):
                step = next(steps, None)
            if step is None:
                return
            yield step


def nudged(arrays: Gradients, dtype: str, seed: int) -> dict[str, Any]:
    """Every floating element times 1 − ε, 1 or 1 + ε at random, in the dtype; zeros stay."""
    rng = np.random.default_rng(seed)
    held = {name: array for name, array in arrays.items() if array is not None}
    moved: dict[str, Any] = {**arrays, **cast(held, dtype)}
    for name in held:
        if floating(moved[name]):
            factors = 1 + epsilon(dtype) * rng.integers(-1, 2, size=moved[name].shape)
            moved[name] = np.asarray(moved[name].astype(np.float64) * factors, dtype)
    return moved


@contextmanager
def moved_functions(dtype: str, seed: int) -> Iterator[None]:
    """While it lasts, torch's elementary functions are off by at most one ULP of their value.

    In float32 oneDNN's LSTM, one operator on CPUs, is taken apart: its pieces round as it does. In
    bfloat16 it stays, since its pieces would round every gate to 8 bits, which it does not.
    """
    (enabled, *_) = torch.backends.mkldnn.set_flags(None if dtype == "bfloat16" else False)
    try:
        with _ElementaryFunctions(seed):
            yield
    finally:
        torch.backends.mkldnn.set_flags(enabled)


@cache
def _elementary(func: Any) -> bool:
    name: str = func.overloadpacket.__name__
    return name.strip("_").removesuffix("_backward") in ELEMENTARY


class _ElementaryFunctions(TorchDispatchMode):
    """Below autograd, so that derivatives see the moved values too."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if _elementary(func):
            for value in result if isinstance(result, tuple) else (result,):
                if isinstance(value, torch.Tensor) and value.is_floating_point():
                    self._move(value)
        return result

    def _move(self, value: torch.Tensor) -> None:
        ulps = torch.randint(-1, 2, value.shape, generator=self.generator, dtype=value.dtype)
        value.mul_(ulps.to(value.device).mul_(torch.finfo(value.dtype).eps).add_(1))
