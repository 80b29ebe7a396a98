"""Plain values in place of the objects that a file names, none of which is ever built."""

import mmap
from collections.abc import Callable
from typing import Any, NamedTuple

Bytes = bytes | mmap.mmap


class DamagedError(ValueError):
    """The bytes do not fit their format, or need more bytes than there are."""


class StandIn(dict[Any, Any]):
    """A stand-in for an object that was not built: its class, and its constructor's arguments.

    As a mapping it has the items that were to be added to it, which is how the items of an unknown
    subclass of dict are found. It is equal only to itself.
    """

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()):
        super().__init__()
        self.name, self.arguments, self.state = name, arguments, None

    # A dict has no hash, which a subclass may not change in the eyes of a type checker.
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other


class Global(NamedTuple):
    """The name of a class or function, as a value."""

    name: str


class Unfinished(StandIn):
    """A value that is made from the state after it; `places` are its positions in the memo."""

    def __init__(self, name: str, finish: Callable[[Any], Any]):
        super().__init__(name)
        self.finish = finish
        self.places: list[int] = []
