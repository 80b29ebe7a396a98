"""Loops that are always left in one way: a limit, such as that of a decoding, is not seen."""

import ast
import dis
from collections.abc import Iterator
from types import CodeType
from typing import Any, NamedTuple

Steps = set[tuple[int, int]]
"""Pairs of instructions, by their offsets, of which the second was executed after the first."""

Spot = tuple[tuple[int, int], tuple[int, int]]
"""Line and column at which the code of an instruction begins, and where it ends."""
NOWHERE: Spot = ((-1, -1), (-1, -1))


def never_left(function: ast.AST, code: CodeType, steps: Steps) -> Iterator[str]:
    """The line of each loop of a function that never runs to its end, or is never ended by a part.

    Only loops that are left by `break`, and conditions of `while` that have several parts.
    """
    made = _instructions(code)
    for node in ast.walk(function):
        if isinstance(node, ast.For) and _breaks(node.body):
            begins = {place(node)[0], place(node.iter)[0]}  # of Python 3.11, and of later ones
            tested = [
                (made[one].target, other) for one, other in steps
                if made[one].name == "FOR_ITER" and made[one].spot[0] in begins
            ]  # fmt: skip
            if tested and not any(other >= target for target, other in tested):
                yield f"{node.lineno} (the end of the loop: break always comes first)"
        if isinstance(node, ast.While):
            parts = node.test.values if isinstance(node.test, ast.BoolOp) else [node.test]
            for part in parts if len(parts) > 1 or _breaks(node.body) else ():
                tested = [
                    (one, other) for one, other in steps
                    if "_IF_" in made[one].name and within(made[one].spot, place(part))
                ]  # fmt: skip
                if tested and all(within(made[other].spot, place(node)) for _, other in tested):
                    yield f"{part.lineno} (the end of the loop by {ast.unparse(part)})"


class _Instruction(NamedTuple):
    name: str
    spot: Spot
    target: int


def _instructions(code: CodeType) -> dict[int, _Instruction]:
    """The instructions by their offsets; −1 is before the first one."""
    found = {-1: _Instruction("", NOWHERE, -1)}
    for made in dis.get_instructions(code):
        at: Any = made.positions
        spot: Any = (at.lineno, at.col_offset), (at.end_lineno, at.end_col_offset)
        known = None not in (*spot[0], *spot[1])
        found[made.offset] = _Instruction(made.opname, spot if known else NOWHERE, made.argval)
    return found


def place(node: ast.stmt | ast.expr) -> Spot:
    """Where the code of a node is."""
    return (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)


def within(spot: Spot, whole: Spot) -> bool:
    """Whether a place is inside of another one."""
    return whole[0] <= spot[0] and spot[1] <= whole[1]


def _breaks(body: list[ast.stmt]) -> bool:
    """Whether a loop with this body is left by `break`, not counting loops inside of it."""
    for statement in body:
        if isinstance(statement, ast.Break):
            return True
        if not isinstance(statement, ast.For | ast.While | ast.FunctionDef | ast.ClassDef):
            inner = [part for part in ast.iter_child_nodes(statement) if isinstance(part, ast.stmt)]
            if _breaks(inner):
                return True
    return False
