"""What the inputs do not reach: limits that no value exceeds, comparisons with one result.

A port that lacks such a limit or mask computes the same on them.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from parity.sides.limits import COMPARISONS, LIMITS, of_call, of_slices
from parity.sides.losses import SQUARES
from parity.sides.side import Arrays
from parity.sides.torch_masks import FixedDropout
from parity.sides.torch_side import TorchSide
from parity.tolerances import TRUTH

_OTHERS = (str(Path(str(torch.__file__)).parent), str(Path(__file__).parents[1]))
_DISTRIBUTIONS = str(Path(_OTHERS[0], "distributions"))


def of_reference(reference: TorchSide, inputs: Arrays, training: bool = False) -> list[str]:
    """A note on what these inputs do not reach, if there is anything.

    Args:
        reference: the reference.
        inputs: what it reads.
        training: whether to run it in training mode, too, forward and backward.
    """
    with _noted() as reached:
        reference.forward(reference.parameters, inputs, TRUTH)
        if training:
            reference.run_copy(inputs, torch.nn.Module.train, FixedDropout(), SQUARES)
    missed: dict[str, dict[str, None]] = {}
    for (words, (file, line, _)), is_reached in reached.items():
        if not is_reached:
            missed.setdefault(words, {})[f"{Path(file).name}:{line}"] = None
    listed = ", ".join(f"{words} ({', '.join(places)})" for words, places in missed.items())
    return [f"not reached by these inputs, so not compared: {listed}"] if missed else []


Caller = tuple[str, int, int | None]
"""File and line of the user's code that calls an operator, and the identity of the module."""

Noted = dict[tuple[str, Caller], bool]
"""What is to be reached, and where → whether any call there reaches it."""


@contextmanager
def _noted() -> Iterator[Noted]:
    reached: Noted = defaultdict(bool)
    with _Operators(reached), _Slices(reached):
        yield reached


def _caller(compares: bool = False) -> Caller | None:
    """Where the user's code calls an operator: its line, and the module that does.

    Several modules may do it for one line, such as those of a Sequential. None for what torch does
    of its own accord: in a backward pass, in its distributions, and to compare, such as masks.

    Args:
        compares: whether it is an operator that compares.
    """
    frame, module = sys._getframe(2), None
    while frame.f_code.co_filename.startswith(_OTHERS):
        if frame.f_code is of_reference.__code__ or frame.f_back is None:
            return None
        in_torch = frame.f_code.co_filename.startswith(_OTHERS[0])
        if in_torch and (compares or frame.f_code.co_filename.startswith(_DISTRIBUTIONS)):
            return None
        owner = frame.f_locals.get("self")
        module = module or (id(owner) if isinstance(owner, torch.nn.Module) else None)
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno, module


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
        compares = name in COMPARISONS
        caller = _caller(compares) if compares or name in LIMITS else None
        if caller is None:
            return func(*args, **(kwargs or {}))
        before = [arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in args]
        result = func(*args, **(kwargs or {}))
        _note(self.reached, of_call(name, result, before), caller)
        return result


class _Operators(_Noting, TorchDispatchMode):
    """Notes operators, in place or not."""

    def __init__(self, reached: Noted) -> None:
        super().__init__()
        self.reached = reached
