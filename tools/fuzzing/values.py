"""One change to a nested value: JSON, the metadata of a folder, the state of an optimizer."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

JSON: tuple[Any, ...] = (
    None, True, -1, 0, 1, 7, 2**31, 2**40, 2**63, 10**30, 10**400, -0.5, 1e308, float("nan"),
    float("inf"), "", "0", "x" * 100_000, "a\x1b[31m\nb", "../../../../etc/passwd",
    "/dev/zero", ".", "\ud800", "\0", "l" + "9" * 20, [], {}, [0] * 50_000, [2**40, 2**40],
    [[[[[]]]]], {"a": {"b": 1}},
)  # fmt: skip
"""Values that do not belong: what JSON can have."""

NAMES = [value for value in JSON if isinstance(value, str)]

PICKLED: tuple[Any, ...] = (
    b"\0", (), (0.9,), (0.9, 2.0), ("0.9", "0.999"), {1: 2, (1, 2): 3}, {None: None}, np.zeros(()),
    np.zeros(3, np.float32), np.zeros((0, 4)), np.full((4, 2), np.nan, np.float32),
    np.ones(4, complex), np.array("x"), np.zeros((), "datetime64[s]"), np.float32(-1),
    np.array(np.inf), np.array(2.5), np.int64(-1), np.array([3.0]), np.array(True),
    np.zeros((4, 2), np.float16), complex(1, 1), range(3),
)  # fmt: skip
"""What a pickle can have besides."""


def changed(tree: Any, rng: np.random.Generator, odd: Sequence[Any] = JSON) -> Any:
    """The value after one change at a random place; `tree` itself is not modified."""
    parts = _parts(tree)
    if not parts or rng.random() < 0.2:
        return pick(odd, rng)
    key = pick(list(parts), rng)
    kind = rng.integers(10)
    if kind == 0:  # a missing part
        return _rebuilt(tree, {k: v for k, v in parts.items() if k != key})
    if kind == 1 and isinstance(tree, (dict, list)):  # one more
        return _rebuilt(tree, parts | {pick([*NAMES, len(parts)], rng): parts[key]})
    if kind == 2:  # two that are exchanged
        other = pick(list(parts), rng)
        return _rebuilt(tree, parts | {key: parts[other], other: parts[key]})
    return _rebuilt(tree, parts | {key: changed(parts[key], rng, odd)})


def pick(options: Sequence[Any], rng: np.random.Generator) -> Any:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def _parts(tree: Any) -> dict[Any, Any]:
    if isinstance(tree, dict):
        return tree
    if isinstance(tree, (list, tuple)):
        return dict(enumerate(tree))
    plain = "__getstate__" not in vars(type(tree))  # others refuse to pickle what is odd
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type) and plain:
        return dict(vars(tree))
    return {}


def _rebuilt(tree: Any, parts: dict[Any, Any]) -> Any:
    if isinstance(tree, dict):
        return parts
    if isinstance(tree, (list, tuple)):
        return (list if isinstance(tree, list) else tuple)(parts.values())
    new = object.__new__(type(tree))  # without its constructor's checks
    new.__dict__.update(parts)
    return new
