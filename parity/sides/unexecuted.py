"""What of the reference's code no run executes: what it computes is not compared."""

import ast
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from os import sep
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import torch

from parity.sides.loops import Spot, Steps, never_left, place, within

NOT_THE_USERS = tuple(
    f"{path}{sep}" for path in (Path(str(torch.__file__)).parent, Path(__file__).parents[1])
)
"""The folders of PyTorch and of parity, in which the user's code is called."""

_INSTALLED = tuple(
    f"{path}{sep}" for path in {*sysconfig.get_paths().values(), Path(str(np.__file__)).parents[1]}
)
"""The folders of Python and of what is installed."""


class Lines:
    """What is executed in the files that a module's code is in, and in what that calls elsewhere.

    Of what is installed, only the files of the module's own classes are watched.

    Args:
        module: the module. Code of PyTorch's own modules is not watched.
        others: functions, to watch their files, too.
    """

    def __init__(self, module: torch.nn.Module, *others: Any) -> None:
        held = (*(type(part).forward for part in module.modules()), *others)
        functions = (inspect.unwrap(function) for function in held)
        files = {f.__code__.co_filename for f in functions if inspect.isfunction(f)}
        self._files = {file for file in files if not file.startswith(NOT_THE_USERS)}
        self._executed: dict[CodeType, Steps] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While this is entered, note what is executed."""

        def call(frame: FrameType, event: str, _: Any) -> Any:
            if not self._is_the_users(frame):
                return None
            steps, before = self._executed.setdefault(frame.f_code, set()), -1

            def step(frame: FrameType, event: str, _: Any) -> Any:
                nonlocal before
                if event == "opcode":
                    steps.add((before, frame.f_lasti))
                    before = frame.f_lasti
                return step

            frame.f_trace_lines, frame.f_trace_opcodes = False, True
            frame.f_trace = step  # from Python 3.12 on, the first call would not be traced without
            sys.settrace(call)
            return step

        before = sys.gettrace()
        sys.settrace(call)
        try:
            yield
        finally:
            sys.settrace(before)

    def _is_the_users(self, frame: FrameType) -> bool:
        file, caller = frame.f_code.co_filename, frame.f_back
        if file in self._files:
            return True
        is_called = caller is not None and caller.f_code in self._executed
        return is_called and not file.startswith((*NOT_THE_USERS, *_INSTALLED, "<"))

    def missed(self) -> list[str]:
        """What was not executed in functions that were called.

        Of each block of statements the line of the first one; the branches of conditional
        expressions, and the ends of loops that are always left in another way, with their lines.
        """
        executed: dict[str, set[Spot]] = {}
        functions: dict[str, Functions] = {}
        for code, steps in self._executed.items():
            file = code.co_filename
            executed.setdefault(file, set()).update(_spots(code, steps))
            functions[file] = functions[file] if file in functions else _functions(code)
        return [
            f"{Path(code.co_filename).name}:{words}"
            for code, steps in self._executed.items()
            if (node := functions[code.co_filename].get((code.co_name, code.co_firstlineno)))
            for words in _missed(node, code, executed[code.co_filename], steps)
        ]


Function = ast.FunctionDef | ast.AsyncFunctionDef
Functions = dict[tuple[str, int], Function]
"""Name and first line → the function of a file."""


def _spots(code: CodeType, steps: Steps) -> Iterator[Spot]:
    """Where the instructions are that were executed."""
    places = list(code.co_positions())
    for at in {other for _, other in steps}:
        line, end, column, last = places[at // 2]
        if not (line is None or end is None or column is None or last is None):
            yield (line, column), (end, last)


def _functions(code: CodeType) -> Functions:
    """The functions in the file of a code; none if there is no source."""
    try:
        lines, _ = inspect.findsource(code)
        tree = ast.parse("".join(lines))
    except (OSError, SyntaxError, ValueError):
        return {}
    found = (node for node in ast.walk(tree) if isinstance(node, Function))
    return {
        (node.name, min(part.lineno for part in (node, *node.decorator_list))): node
        for node in found
    }


def _missed(node: Function, code: CodeType, executed: set[Spot], steps: Steps) -> Iterator[str]:
    """The lines that begin what was not executed; not those that raise errors."""
    for missed in _first_missed(node, _inside(node, executed)):
        if isinstance(missed, ast.expr):
            yield f"{missed.lineno} (the part {ast.unparse(missed)})"
        elif not _only_raises(missed):
            yield str(missed.lineno)
    yield from never_left(node, code, steps)


def _first_missed(node: ast.AST, executed: set[Spot]) -> Iterator[ast.stmt | ast.expr]:
    """The first statement of each block in it that was not executed, if all around it was."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for inner in getattr(node, name, ()):
            if not isinstance(inner, ast.stmt):  # of a match, or a try
                yield from _first_missed(inner, executed)
            elif not isinstance(inner, _WITHOUT_CODE) and not _is_words(inner):
                if not _inside(inner, executed):
                    yield inner
                    break
                if not isinstance(inner, _FUNCTIONS):
                    yield from _branches(inner, executed)
                    yield from _first_missed(inner, executed)


def _branches(statement: ast.stmt, executed: set[Spot]) -> Iterator[ast.expr]:
    """The branches of conditional expressions in a statement, not in its blocks."""
    parts = [part for part in ast.iter_child_nodes(statement) if isinstance(part, ast.expr)]
    for part in parts:
        for node in ast.walk(part):
            if isinstance(node, ast.IfExp) and _inside(node.test, executed):
                for branch in (node.body, node.orelse):
                    if not _inside(branch, executed) and not _is_none(branch):
                        yield branch


def _inside(node: ast.stmt | ast.expr, executed: set[Spot]) -> set[Spot]:
    return {spot for spot in executed if within(spot, place(node))}


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _only_raises(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.If):
        return all(map(_only_raises, (*statement.body, *statement.orelse)))
    return isinstance(statement, ast.Raise)


def _is_words(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_WITHOUT_CODE = ast.Global | ast.Nonlocal | ast.AnnAssign | ast.Pass
