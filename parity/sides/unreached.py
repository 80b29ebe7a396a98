"""What the inputs do not reach: limits that no value exceeds, comparisons with one result.

A port that lacks such a limit or mask computes the same on them.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from os import sep
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from parity.sides.data import target_shape
from parity.sides.limits import COMPARISONS, LIMITS, compares, of_call, of_slices
from parity.sides.losses import LOSSES, SQUARES, Loss
from parity.sides.side import TARGET, Arrays
from parity.sides.torch_masks import FixedDropout
from parity.sides.torch_side import TorchSide
from parity.sides.unexecuted import NOT_THE_USERS, Lines
from parity.tolerances import TRUTH

_TORCH = NOT_THE_USERS[0]
_CALLS = f"{_TORCH}_ops.py"  # where another mode calls the operator
_DISTRIBUTIONS = f"{_TORCH}distributions{sep}"

Frame = tuple[str, int, int]
"""File, line and instruction of the user's code."""

Caller = tuple[tuple[Frame, ...], int | None]
"""The user's code that calls an operator, and its callers; the identity of the module."""

Key = tuple[str, Caller]
"""What is to be reached, in words, and where."""

Noted = dict[Key, bool]
"""What is to be reached → whether any call there reaches it."""


def of_reference(reference: TorchSide, inputs: Arrays, training: bool = False) -> list[str]:
    """Notes on what these inputs do not reach, if there is anything.

    Args:
        reference: the reference.
        inputs: what it and the loss read.
        training: whether to run it in training mode, too, forward and backward.
    """
    inputs, loss = _with_target(reference, inputs)
    lines = Lines(reference.module, reference.loss.torch)
    integers = {n: torch.from_numpy(a) for n, a in inputs.items() if a.dtype.kind in "iu"}

    def noted(prepare: Callable[[torch.nn.Module], Any]) -> Noted:
        with lines.watched(), _noted(integers) as reached:
            reference.run_copy(inputs, prepare, FixedDropout(), loss)
        return reached

    reached = noted(torch.nn.Module.eval)
    if training:
        also = noted(torch.nn.Module.train)
        known = {_without_module(key) for key in reached}
        reached |= {key: also[key] for key in also if _without_module(key) not in known}
    notes = {
        "not reached by these inputs, so not compared: ": list(_missed(reached)),
        "lines that no run executes, so not compared: ": lines.missed() if training else [],
    }
    return [what + ", ".join(found) for what, found in notes.items() if found]


def _with_target(reference: TorchSide, inputs: Arrays) -> tuple[Arrays, Loss]:
    """The inputs with a target that is drawn, if the loss reads one; a loss for these."""
    loss = reference.loss
    if TARGET in inputs or not loss.targeted:
        is_missing = TARGET not in inputs and loss in LOSSES
        return inputs, SQUARES if is_missing else loss
    stages = reference.forward(reference.parameters, inputs, TRUTH)
    shape = target_shape(stages, reference.output)
    return {**inputs, TARGET: np.random.default_rng(0).standard_normal(shape)}, loss


def _missed(reached: Noted) -> Iterator[str]:
    """What is not reached, with its places; and whose call of a place if another one reaches it."""
    reaching = {(words, frames[:1]) for (words, (frames, _)), found in reached.items() if found}
    missed: dict[str, dict[str, None]] = {}
    for (words, (frames, _)), found in reached.items():
        if not found:
            place, *callers = [
                f"{Path(file).name}:{line}".removesuffix(":0") for file, line, _ in frames
            ]
            if callers and (words, frames[:1]) in reaching:
                place += f" called at {callers[0]}"
            missed.setdefault(words, {})[place] = None
    for words, places in missed.items():
        yield f"{words} ({', '.join(places)})"


def _without_module(key: Key) -> tuple[Any, ...]:
    """The same in every copy of the model."""
    words, (frames, _) = key
    return words, frames


@contextmanager
def _noted(integers: Mapping[str, torch.Tensor]) -> Iterator[Noted]:
    reached: Noted = defaultdict(bool)
    computed: set[int] = set()
    with _Operators(reached, computed, integers), _Slices(reached, computed):
        yield reached


def _caller(compares: bool = False) -> Caller | None:
    """Where the user's code calls an operator: its line, and the module that does.

    Several modules may do it for one line, such as those of a Sequential, and a line several times.
    None for what torch does of its own accord: in a backward pass, in its distributions, and to
    compare, such as masks.

    Args:
        compares: whether it is an operator that compares.
    """
    frame: FrameType | None = sys._getframe(2)
    module, frames = None, []
    passing = _TORCH if compares else _DISTRIBUTIONS
    while frame is not None and frame.f_code is not of_reference.__code__:
        file = frame.f_code.co_filename
        if not file.startswith(NOT_THE_USERS):
            frames.append((file, frame.f_lineno, frame.f_lasti))
        elif not frames and file.startswith(passing) and file != _CALLS:
            return None
        module = module or _module_of(frame)
        frame = frame.f_back
    if not frames and module is not None:  # a model of PyTorch's own
        frames = [("torch_model", 0, 0)]
    return (tuple(frames), module) if frames else None


def _module_of(frame: FrameType) -> int | None:
    """The identity of the module whose method runs."""
    owner = frame.f_locals.get("self")
    return id(owner) if isinstance(owner, torch.nn.Module) else None


def _note(reached: Noted, found: Iterable[tuple[str, bool]], caller: Caller | None) -> None:
    if caller is None:
        return
    with suppress(Exception):  # another form of the operator
        for words, is_reached in found:
            reached[words, caller] |= is_reached


class _Slices(TorchFunctionMode):
    """Notes indices, of which an operator does not see those that cut nothing off."""

    def __init__(self, reached: Noted, computed: set[int]) -> None:
        super().__init__()
        self.reached, self.computed = reached, computed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__getitem__:
            array, index = args
            _note(self.reached, of_slices(array, index, self.computed), _caller())
        return func(*args, **(kwargs or {}))


class _Noting:
    """What `_Operators` does with every operation; a class of its own as in `parity.nudging`."""

    reached: Noted
    computed: set[int]
    integers: Mapping[str, torch.Tensor]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "overloadpacket", func).__name__.rstrip("_")
        before = args
        if name in LIMITS or name in COMPARISONS:  # it may be done in place
            before = [arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in args]
        result = func(*args, **(kwargs or {}))
        if name == "_local_scalar_dense":  # int(array)
            self.computed.add(result)
        comparing = compares(name, result, before)
        if comparing or name in LIMITS:
            found = of_call(name, result, before)
            if comparing and self.integers:
                found = ((words + self._of_input(before[0]), reached) for words, reached in found)
            _note(self.reached, found, _caller(comparing))
        return result

    def _of_input(self, array: Any) -> str:
        """Which input an array is, such as tokens that a mask is made of: each has to reach it."""
        if isinstance(array, torch.Tensor) and not array.is_floating_point():
            for name, given in self.integers.items():
                if given.shape == array.shape and bool((given == array).all()):
                    return f" in {name}"
        return ""


class _Operators(_Noting, TorchDispatchMode):
    """Notes operators, in place or not."""

    def __init__(
        self, reached: Noted, computed: set[int], integers: Mapping[str, torch.Tensor]
    ) -> None:
        super().__init__()
        self.reached, self.computed, self.integers = reached, computed, integers
