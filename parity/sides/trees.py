"""The arrays in nested values, named by their place: `output.logits`, `gru.1.0`."""

import copy
from collections.abc import Callable, Mapping
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
    if isinstance(value, Mapping):
        return _with_items(value, {key: inner(key, part) for key, part in value.items()})
    if isinstance(value, tuple | list):
        keys = getattr(value, "_fields", range(len(value)))
        parts = [inner(key, part) for key, part in zip(keys, value, strict=True)]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: inner(f.name, getattr(value, f.name)) for f in fields(value)}
        return replace(value, **{f.name: changed[f.name] for f in fields(value) if f.init})
    if strict and value is not None:
        raise TypeError(
            f"{name}: expected arrays, or tuples, lists, dicts and dataclasses of arrays, got "
            f"{type(value).__name__}; return what is to be compared as an array"
        )
    return value


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
