"""The lines of the reference's code that no run executes: what they compute is not compared."""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from os import sep
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

NOT_THE_USERS = tuple(
    f"{path}{sep}" for path in (Path(str(torch.__file__)).parent, Path(__file__).parents[1])
)
"""The folders of PyTorch and of parity, in which the user's code is called."""


class Lines:
    """The lines that are executed in the files that a module's code is in.

    Args:
        module: the module. Code of PyTorch's own modules is not watched.
        others: functions, to watch their files, too.
    """

    def __init__(self, module: torch.nn.Module, *others: Any) -> None:
        held = (*(type(part).forward for part in module.modules()), *others)
        functions = (inspect.unwrap(function) for function in held)
        files = {f.__code__.co_filename for f in functions if inspect.isfunction(f)}
        self._files = {file for file in files if not file.startswith(NOT_THE_USERS)}
        self._executed: dict[CodeType, set[int]] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While this is entered, note what is executed."""

        def step(frame: FrameType, event: str, _: Any) -> Any:
            self._executed[frame.f_code].add(frame.f_lineno)
            return step

        def call(frame: FrameType, event: str, _: Any) -> Any:
            if frame.f_code.co_filename not in self._files:
                return None
            self._executed.setdefault(frame.f_code, set())
            return step

        before = sys.gettrace()
        sys.settrace(call)
        try:
            yield
        finally:
            sys.settrace(before)

    def missed(self) -> list[str]:
        """The first line of every piece that was not executed, of functions that were called."""
        return [
            f"{Path(code.co_filename).name}:{line}"
            for code, lines in self._executed.items()
            for line in _missed(code, lines)
        ]


def _missed(code: CodeType, executed: set[int]) -> Iterator[int]:
    """The lines on which a piece begins that was not executed; not those that raise errors."""
    try:
        found, start = inspect.getsourcelines(code)
        (function,) = ast.parse(textwrap.dedent("".join(found))).body
    except (OSError, SyntaxError, ValueError):  # there is no source, or none by itself
        return
    if getattr(function, "name", None) != code.co_name:  # a lambda, or an expression in brackets
        return
    for statement in _first_missed(function, {line - start + 1 for line in executed}):
        if not _only_raises(statement):
            yield statement.lineno + start - 1


def _first_missed(node: ast.AST, executed: set[int]) -> Iterator[ast.stmt]:
    """The first statement of each block in it that was not executed, if all around it was."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for inner in getattr(node, name, ()):
            if not isinstance(inner, ast.stmt):  # of a match, or a try
                yield from _first_missed(inner, executed)
            elif not isinstance(inner, _WITHOUT_CODE) and not _is_words(inner):
                lines = range(inner.lineno, (inner.end_lineno or inner.lineno) + 1)
                if executed.isdisjoint(lines):
                    yield inner
                    break
                if not isinstance(inner, _FUNCTIONS):
                    yield from _first_missed(inner, executed)


def _only_raises(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.If):
        return all(map(_only_raises, (*statement.body, *statement.orelse)))
    return isinstance(statement, ast.Raise)


def _is_words(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_WITHOUT_CODE = ast.Global | ast.Nonlocal | ast.AnnAssign | ast.Pass
