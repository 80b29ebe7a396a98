"""What the inputs do not reach: limits that no value exceeds, comparisons with one result.

A port that lacks such a limit or mask computes the same on them.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from os import sep
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from parity.sides.limits import COMPARISONS, LIMITS, compares, of_call, of_slices
from parity.sides.losses import LOSSES, SQUARES
from parity.sides.side import TARGET, Arrays
from parity.sides.torch_masks import FixedDropout
from parity.sides.torch_side import TorchSide
from parity.sides.unexecuted import NOT_THE_USERS, Lines
from parity.tolerances import TRUTH

_TORCH = NOT_THE_USERS[0]
_DISTRIBUTIONS = f"{_TORCH}distributions{sep}"


def of_reference(reference: TorchSide, inputs: Arrays, training: bool = False) -> list[str]:
    """Notes on what these inputs do not reach, if there is anything.

    Args:
        reference: the reference.
        inputs: what it and the loss read.
        training: whether to run it in training mode, too, forward and backward.
    """
    run = reference.forward if _lacks_target(reference, inputs) else reference.gradients
    lines = Lines(reference.module, reference.loss.torch)
    with lines.watched(), _noted() as reached:
        run(reference.parameters, inputs, TRUTH)
    if training:
        with lines.watched(), _noted() as also:
            reference.run_copy(inputs, torch.nn.Module.train, FixedDropout(), SQUARES)
        known = {_without_module(key) for key in reached}
        reached |= {key: also[key] for key in also if _without_module(key) not in known}
    missed: dict[str, dict[str, None]] = {}
    for (words, (file, line, *_)), is_reached in reached.items():
        if not is_reached:
            place = f"{Path(file).name}:{line}" if line else file
            missed.setdefault(words, {})[place] = None
    notes = {
        "not reached by these inputs, so not compared: ": [
            f"{words} ({', '.join(places)})" for words, places in missed.items()
        ],
        "lines that no run executes, so not compared: ": lines.missed() if training else [],
    }
    return [what + ", ".join(found) for what, found in notes.items() if found]


def _lacks_target(reference: TorchSide, inputs: Arrays) -> bool:
    """Whether the loss needs a target that is still to be drawn."""
    return TARGET not in inputs and (reference.loss.targeted or reference.loss in LOSSES)


Caller = tuple[str, int, int, int | None]
"""File, line and instruction of the user's code that calls an operator; identity of the module."""

Key = tuple[str, Caller]
"""What is to be reached, in words, and where."""

Noted = dict[Key, bool]
"""What is to be reached → whether any call there reaches it."""


def _without_module(key: Key) -> tuple[Any, ...]:
    """The same in every copy of the model."""
    words, (*where, _) = key
    return words, *where


@contextmanager
def _noted() -> Iterator[Noted]:
    reached: Noted = defaultdict(bool)
    with _Operators(reached), _Slices(reached):
        yield reached


def _caller(compares: bool = False) -> Caller | None:
    """Where the user's code calls an operator: its line, and the module that does.

    Several modules may do it for one line, such as those of a Sequential, and a line several times.
    None for what torch does of its own accord: in a backward pass, in its distributions, and to
    compare, such as masks.

    Args:
        compares: whether it is an operator that compares.
    """
    frame: FrameType = sys._getframe(2)
    module = None
    while frame.f_code.co_filename.startswith(NOT_THE_USERS):
        if frame.f_code is of_reference.__code__ or frame.f_back is None:
            return None if module is None else ("torch_model", 0, 0, module)  # it is PyTorch's own
        in_torch = frame.f_code.co_filename.startswith(_TORCH)
        if in_torch and (compares or frame.f_code.co_filename.startswith(_DISTRIBUTIONS)):
            return None
        module = module or _module_of(frame)
        frame = frame.f_back
    where = frame.f_code.co_filename, frame.f_lineno, frame.f_lasti
    return *where, module or _module_of(frame)


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

    def __init__(self, reached: Noted) -> None:
        super().__init__()
        self.reached = reached

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__getitem__:
            _note(self.reached, of_slices(*args), _caller())
        return func(*args, **(kwargs or {}))


class _Noting:
    """What `_Operators` does with every operation; a class of its own as in `parity.nudging`."""

    reached: Noted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "overloadpacket", func).__name__.rstrip("_")
        before = args
        if name in LIMITS or name in COMPARISONS:  # it may be done in place
            before = [arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in args]
        result = func(*args, **(kwargs or {}))
        comparing = compares(name, result, before)
        if comparing or name in LIMITS:
            _note(self.reached, of_call(name, result, before), _caller(comparing))
        return result


class _Operators(_Noting, TorchDispatchMode):
    """Notes operators, in place or not."""

    def __init__(self, reached: Noted) -> None:
        super().__init__()
        self.reached = reached
