"""Nudged sides: how accurate a side's arithmetic is, measured by running it on moved values.

A nudged side computes what the side does, but all its parameters, inputs and gradients are moved by
at most one ULP of themselves, and so is every value of an elementary function that torch computes:
IEEE 754 leaves σ, tanh, softmax and the like to the libraries, and no two libraries round them
alike. Sums and products are not moved: the dtype determines their rounding. To repeat a run with
random rounding, to see how many of its digits are right, is Monte Carlo arithmetic (Parker, 1997).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parity.distance import PIECE
from parity.sides import optimizers
from parity.sides.optimizers import Optimizer
from parity.sides.side import Arrays, Gradients, Side, Step, cast, floating, whole
from parity.tolerances import MORE_NUDGES, TOLERANCES, epsilon

ELEMENTARY = frozenset(
    (
        "sigmoid", "tanh", "softmax", "log_softmax", "logsumexp", "log_sigmoid_forward",
        "log_sigmoid", "softplus", "silu", "gelu", "elu", "mish", "erf", "erfc", "erfinv",
        "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "pow", "rsqrt",
        "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "asinh", "acosh",
        "atanh", "digamma", "lgamma", "polygamma", "i0", "xlogy", "logit", "sinc",
        "native_layer_norm", "native_batch_norm", "native_group_norm",
    )
)  # fmt: skip
"""Names of torch's operators, without the marks of variants (_softmax, sigmoid_, gelu_backward)."""


def runs(side: Side, dtype: str) -> list[Side]:
    """The side itself, and as many nudged sides as `TOLERANCES` has for the dtype."""
    return [side, *nudged_sides(side, range(TOLERANCES[dtype].nudges))]


class Round(NamedTuple):
    """Nudged sides, and the largest distance over bound at which a failure goes to the next round.

    Each round can only widen the bound, so what passes one round would pass all later ones.
    """

    sides: list[Side]
    rechecked: float


def rounds(side: Side, dtype: str) -> list[Round]:
    """A quick side, with only data moved; then some with functions moved too; then many.

    The first one flushes to zero, as XLA does; the second round begins with one that does not.
    """
    nudges, rechecked = TOLERANCES[dtype].nudges, TOLERANCES[dtype].rechecked
    flushing, not_flushing = (Nudged(side, seed, functions=False) for seed in (1, 0))
    return [
        Round([flushing], float("inf")),
        Round([not_flushing, *nudged_sides(side, range(nudges))], rechecked),
        Round(nudged_sides(side, range(nudges, nudges + MORE_NUDGES)), 0),
    ]


def nudged_sides(side: Side, seeds: Iterable[int]) -> list[Side]:
    """A nudged side for each of the seeds."""
    return [Nudged(side, seed) for seed in seeds]


class Nudged(Side):
    """A side with its data, elementary functions and optimizers' step lengths moved.

    Args:
        side: the side to move.
        seed: the seed of the moves.
        functions: whether elementary functions are moved. Each operation then goes through Python.
    """

    def __init__(self, side: Side, seed: int, *, functions: bool = True) -> None:
        super().__init__(f"{side.name}, nudged", side.parameters)
        self.side, self.seed, self.functions = side, seed, functions

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

    def in_training(self, by: str, *given: Any) -> Any:
        """See `Side`."""
        return self._moved(partial(self.side.in_training, by), *given)

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
        with self._moving(dtype, self.seed):
            return run(*(nudged(each, dtype, self.seed) for each in arrays), dtype)

    def _steps(
        self, run: Any, start: Arrays, data: Sequence[Gradients], optimizer: Optimizer, dtype: str
    ) -> Iterator[Step]:
        near = Moved(data, dtype, self.seed)
        twin = optimizers.nudged(optimizer, dtype, self.seed)
        steps = run(nudged(start, dtype, self.seed), near, twin, dtype)
        for number in range(len(near)):
            with self._moving(dtype, self.seed + number):
                step = next(steps, None)
            if step is None:
                return
            yield step

    def _moving(self, dtype: str, seed: int) -> AbstractContextManager[None]:
        return moved_functions(dtype, seed) if self.functions else flushed(seed)


class Moved(Sequence[Any]):
    """The arrays of every step, moved when accessed, so that memory holds one step at a time."""

    def __init__(self, data: Sequence[Gradients], dtype: str, seed: int) -> None:
        self.data, self.dtype, self.seed = data, dtype, seed

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, number: Any) -> Any:
        return nudged(self.data[number], self.dtype, self.seed)


def nudged(arrays: Gradients, dtype: str, seed: int) -> dict[str, Any]:
    """Every floating element times 1 − ε or 1 + ε at random, in the dtype.

    Whole numbers are exact, and stay: they may be marks, such as −1 for what is missing, classes,
    or counts, of which a program asks whether they are above a limit.
    """
    rng = np.random.default_rng(seed)
    held = {name: array for name, array in arrays.items() if array is not None}
    moved: dict[str, Any] = {**arrays, **cast(held, dtype)}
    for name in held:
        if floating(moved[name]):
            moved[name] = _nudged(moved[name], dtype, rng)
    return moved


def _nudged(array: np.ndarray, dtype: str, rng: np.random.Generator) -> np.ndarray:
    moved = np.array(array, order="C")
    factors = 1 + np.array([-1, 1]) * epsilon(dtype)
    elements = moved.reshape(-1)
    for start in range(0, elements.size, PIECE):
        piece = elements[start : start + PIECE]
        with np.errstate(over="ignore"):
            there = (piece * rng.choice(factors, piece.size)).astype(dtype)
        exact = whole(piece, epsilon(dtype))
        np.copyto(piece, there, where=np.isfinite(there) & ~exact)  # the largest number stays, too
    return moved


@contextmanager
def flushed(seed: int) -> Iterator[None]:
    """For odd seeds, treat numbers below the smallest normal one as zero, as XLA does."""
    torch.set_flush_denormal(seed % 2 == 1)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def moved_functions(dtype: str, seed: int) -> Iterator[None]:
    """Move the values of torch's elementary functions by one ULP; flush as `flushed` does.

    On CPUs an LSTM is one operator of oneDNN, whose functions cannot be moved. So it is replaced by
    its single operations. In bfloat16 these round every gate and every sum to 8 bits, as a loop in
    bfloat16 does, and the operator rounds only its results. A right program may do either: even
    seeds keep the operator, odd ones replace it.
    """
    kept = dtype == "bfloat16" and seed % 2 == 0
    (enabled, *_) = torch.backends.mkldnn.set_flags(None if kept else False)
    try:
        with flushed(seed), _ElementaryFunctions(seed):
            yield
    finally:
        torch.backends.mkldnn.set_flags(enabled)


@cache
def _elementary(func: Any) -> bool:
    name: str = func.overloadpacket.__name__
    return name.strip("_").removesuffix("_backward") in ELEMENTARY


class _Moving:
    """What `_ElementaryFunctions` does with every operation.

    This is a separate class because torch wraps the method of a direct subclass of its mode in
    `torch._dynamo.disable`, which takes longer than a small operation.
    """

    seed: int
    taken: int

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs) if kwargs else func(*args)
        if _elementary(func):
            for value in result if isinstance(result, tuple) else (result,):
                if isinstance(value, torch.Tensor) and value.is_floating_point():
                    self._move(value)
        return result

    def _move(self, value: torch.Tensor) -> None:
        factors = _factors(value.dtype, self.seed)
        size = value.numel()
        if size > len(factors) // 2:
            factors = factors.repeat(-(-size // len(factors)) + 1)
        start = self.taken % _POOL
        self.taken += size
        factors = factors[start : start + size].view(value.shape).to(value.device)
        if value.dtype == torch.bfloat16:
            value.copy_(_neighbours(value, factors > 1))
        else:
            value.mul_(factors)


def _neighbours(value: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The next number up or down; 0, 1 and −1, where functions are saturated, stay.

    Times 1 − ε would be two numbers down from a value just below 1, and 1 would become 1 + ε, which
    no σ returns: in bfloat16 that would be far too much for derivatives such as σ (1 − σ).
    """
    limits = torch.where(up, torch.inf, -torch.inf).to(value.dtype)
    saturated = (value == 0) | (value.abs() == 1)
    return torch.where(saturated, value, value.nextafter(limits))


class _ElementaryFunctions(_Moving, TorchDispatchMode):
    """Moves values below autograd, so that derivatives see the moved values too."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed, self.taken = seed, 0


_POOL = 2**16


@cache
def _factors(dtype: torch.dtype, seed: int) -> torch.Tensor:
    """`_POOL` random factors 1 − ε or 1 + ε, repeated once, so that a slice can begin anywhere."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (_POOL,), generator=generator, dtype=torch.int8) * 2 - 1
    return (signs.to(dtype) * epsilon(str(dtype).removeprefix("torch.")) + 1).repeat(2)
