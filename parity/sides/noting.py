"""What each call of an operator in the user's code reaches, with the place of the call."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from os import sep
from types import FrameType
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from parity.sides.limits import COMPARISONS, LIMITS, compares, of_call, of_slices
from parity.sides.unexecuted import NOT_THE_USERS

_TORCH = NOT_THE_USERS[0]
_CALLS = f"{_TORCH}_ops.py"  # where another mode calls the operator
_OWN = tuple(f"{_TORCH}{folder}{sep}" for folder in ("distributions", f"nn{sep}utils"))

Frame = tuple[str, int, int]
"""File, line and instruction of the user's code."""

Caller = tuple[tuple[Frame, ...], tuple[int | None, int | None]]
"""The user's code that calls an operator, and its callers; the identities of the module that it
belongs to, and of the last one that was called, such as each layer in a loop."""

Key = tuple[str, Caller]
"""What is to be reached, in words, and where."""

Noted = dict[Key, bool]
"""What is to be reached → whether any call there reaches it."""


class Seen:
    """What is noted of a run.

    Args:
        integers: the inputs of whole numbers, of which each has to reach what another one does.

    Attributes:
        reached: the notes.
        computed: the numbers that were computed from arrays, by `int(array)`.
    """

    def __init__(self, integers: Mapping[str, torch.Tensor]) -> None:
        self.integers, self.computed = integers, set[int]()
        self.reached: Noted = defaultdict(bool)
        self._last: int | None = None
        self._outer: FrameType | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While this is entered, note what is called."""

        def called(module: torch.nn.Module, *_: Any) -> None:
            self._last = id(module)

        hook = register_module_forward_hook(called)
        self._outer = sys._getframe(2)  # past contextlib's
        try:
            with _Operators(self), _Slices(self):
                yield
        finally:
            hook.remove()
            self._outer = None

    def note(self, found: Iterable[tuple[str, bool]], compares: bool = False) -> None:
        """Note what a call has to reach, and whether it does.

        Args:
            found: what, in words, and whether.
            compares: whether it is an operator that compares, which torch also does by itself.
        """
        caller = self._caller(compares)
        if caller is None:
            return
        with suppress(Exception):  # another form of the operator
            for words, is_reached in found:
                self.reached[words, caller] |= is_reached

    def _caller(self, compares: bool) -> Caller | None:
        """Where the user's code calls an operator: its line, and the module that does.

        Several modules may do it for one line, such as those of a Sequential, and a line several
        times. None for what torch does of its own accord: in a backward pass, in its
        distributions, to pack sequences, and to compare, such as masks.
        """
        frame: FrameType | None = sys._getframe(2)
        module, frames = None, []
        passing = _TORCH if compares else _OWN
        while frame is not None and frame is not self._outer:
            file = frame.f_code.co_filename
            if not file.startswith(NOT_THE_USERS):
                frames.append((file, frame.f_lineno, frame.f_lasti))
            elif not frames and file.startswith(passing) and file != _CALLS:
                return None
            module = module or _module_of(frame)
            frame = frame.f_back
        if not frames and module is not None:  # a model of PyTorch's own
            frames = [("torch_model", 0, 0)]
        return (tuple(frames), (module, self._last)) if frames else None

    def of_input(self, array: Any) -> str:
        """Which input of whole numbers an array is, in words, or ""."""
        if isinstance(array, torch.Tensor) and not array.is_floating_point():
            for name, given in self.integers.items():
                if given.shape == array.shape and bool((given == array).all()):
                    return f" in {name}"
        return ""


def _module_of(frame: FrameType) -> int | None:
    """The identity of the module whose method runs."""
    owner = frame.f_locals.get("self")
    return id(owner) if isinstance(owner, torch.nn.Module) else None


class _Slices(TorchFunctionMode):
    """Notes indices, of which an operator does not see those that cut nothing off."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__getitem__:
            array, index = args
            self.seen.note(of_slices(array, index, self.seen.computed))
        return func(*args, **(kwargs or {}))


class _Noting:
    """What `_Operators` does with every operation; a class of its own as in `parity.nudging`."""

    seen: Seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "overloadpacket", func).__name__.rstrip("_")
        before = args
        if name in LIMITS or name in COMPARISONS:  # it may be done in place
            before = [arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in args]
        result = func(*args, **(kwargs or {}))
        if name == "_local_scalar_dense":  # int(array)
            self.seen.computed.add(result)
        comparing = compares(name, result, before)
        if comparing or name in LIMITS:
            of_input = self.seen.of_input(before[0]) if comparing else ""
            found = ((w + of_input, reached) for w, reached in of_call(name, result, before))
            self.seen.note(found, comparing)
        return result


class _Operators(_Noting, TorchDispatchMode):
    """Notes operators, in place or not."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen
