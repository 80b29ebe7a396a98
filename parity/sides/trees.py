"""The arrays in nested values, named by their place: `output.logits`, `gru.1.0`."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

Change = Callable[[str, Any], Any]
"""(name, array) → the array that replaces it."""


def mapped(name: str, value: Any, change: Change, *, strict: bool = False) -> Any:
    """The value with every array in it changed, in the same tuples, lists, dicts and dataclasses.

    Args:
        name: the name of the value; its parts are `name.0`, `name.key` or `name.field`.
        value: an array, or nested arrays.
        change: called for every array, in order.
        strict: whether to raise for a part that is neither an array nor nested arrays.

    Raises:
        TypeError: `strict`, and a part of the value cannot be compared.
    """

    def inner(key: Any, part: Any) -> Any:
        return mapped(f"{name}.{key}", part, change, strict=strict)

    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return change(name, value)
    keys, parts = _parts(value)
    if parts is not None:
        changed = [inner(key, part) for key, part in zip(keys, parts, strict=True)]
        if all(new is old for new, old in zip(changed, parts, strict=True)):
            return value  # a list that is an argument may be added to
        return _rebuilt(value, keys, changed)
    if strict and value is not None:
        raise TypeError(
            f"{name}: expected arrays, or tuples, lists, dicts and dataclasses of arrays, got "
            f"{type(value).__name__}; return what is to be compared as an array"
        )
    return value


def writing_back(value: Any, made: Any) -> Callable[[], None]:
    """What writes to the lists and dicts in a value what is written to those that were made of it.

    A part that nothing is written to stays as it was in the value.
    """
    pairs: list[tuple[Any, Any, Any]] = []

    def note(value: Any, made: Any) -> None:
        (_keys, parts), (_, others) = _parts(value), _parts(made)
        if value is made or type(value) is not type(made) or parts is None or others is None:
            return
        if type(value) in (list, dict):
            pairs.append((value, made, copy.copy(made)))
        for part, other in zip(parts, others, strict=False):
            note(part, other)

    def write() -> None:
        for value, made, before in pairs:
            old, was, new = _items(value), _items(before), _items(made)
            kept = {k: old.get(k, part) if was.get(k) is part else part for k, part in new.items()}
            value.clear()
            value.update(kept) if isinstance(value, dict) else value.extend(kept.values())

    note(value, made)
    return write


def once(change: Change) -> Change:
    """The change, which refuses a second array of the same name, such as that of {"a.b": …} and
    {"a": {"b": …}}."""
    seen = set()

    def checked(name: str, array: Any) -> Any:
        if name in seen:
            raise ValueError(f"two arrays of the output are called {name}: rename one of the keys")
        seen.add(name)
        return change(name, array)

    return checked


def arrays(name: str, value: Any) -> dict[str, Any]:
    """Every array in the value by its name, in order; raises like `mapped`."""
    found: dict[str, Any] = {}

    def note(name: str, array: Any) -> Any:
        found[name] = array
        return array

    mapped(name, value, once(note), strict=True)
    return found


def _with_items(value: Mapping, items: dict[Any, Any]) -> Any:
    if not hasattr(value, "__setitem__"):
        kind: Any = type(value)
        return kind(items)
    made: Any = copy.copy(value)
    for key, item in items.items():
        made[key] = item
    return made


def _parts(value: Any) -> tuple[Sequence[Any], Sequence[Any] | None]:
    """The keys and the parts of a value; None for one that has none."""
    if isinstance(value, Mapping):
        return list(value), list(value.values())
    if isinstance(value, tuple | list):
        return getattr(value, "_fields", range(len(value))), value
    if is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in fields(value)]
        return names, [getattr(value, name) for name in names]
    return (), None


def _items(value: Any) -> dict[Any, Any]:
    """The parts of a list or dict by their keys."""
    return dict(value.items() if isinstance(value, dict) else enumerate(value))


def _rebuilt(value: Any, keys: Sequence[Any], parts: list[Any]) -> Any:
    """The same value with other parts."""
    if isinstance(value, Mapping):
        return _with_items(value, dict(zip(keys, parts, strict=True)))
    if isinstance(value, tuple | list):
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    taken = {f.name for f in fields(value) if f.init}
    named = zip(keys, parts, strict=True)
    return replace(value, **{name: part for name, part in named if name in taken})
