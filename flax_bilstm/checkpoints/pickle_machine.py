"""The machine that a pickle is a program for: a stack, a memo and a position in the data."""

import struct
from collections.abc import Callable, Hashable
from itertools import islice
from numbers import Number
from typing import Any

from flax_bilstm.checkpoints.stand_ins import Bytes, DamagedError, Global, StandIn, Unfinished

MOST_OBJECTS = 2_000_000
"""Most objects, and most places of the memo: each is one byte in the file, and many in memory."""

MOST_OPCODES = 12_000_000
"""Most opcodes of all pickles of a file: so many take less than five seconds."""

READ_COSTS = 4
"""Opcodes for which one counts that reads several bytes, such as a string: it takes that long."""

FREE_KEYS = 2**20
"""Whole numbers from 0 up to this one are keys without limit, as in optimizers' states."""

MOST_OTHER_NUMBERS = 10_000
"""Most other numbers as keys in all pickles of a file: any number of them can have one hash, and a
dict compares each with all before it. The hashes of strings are random."""

MOST_MARKS = 100_000
"""Most marks at a time: as deep as containers are nested."""

Call = Callable[[str, tuple[Any, ...]], Any]
"""The name of a function and its arguments → the value that it would make, or a StandIn."""


class Limits:
    """What all pickles of a file may have together."""

    def __init__(self) -> None:
        self.opcodes = iter(range(MOST_OPCODES))
        self.numbers = 0

    def key(self, key: Any) -> Hashable:
        """A key whose hash is cheap, and not that of many others; a StandIn for other objects."""
        if isinstance(key, (str, bytes, StandIn)) or key is None:
            return key
        if not isinstance(key, Number):
            return StandIn(type(key).__name__)
        if not (isinstance(key, int) and 0 <= key < FREE_KEYS):
            self.numbers += 1
            if self.numbers > MOST_OTHER_NUMBERS:
                raise DamagedError(
                    f"its pickle has more than {MOST_OTHER_NUMBERS:,} keys that are numbers, but "
                    f"not whole ones from 0 to {FREE_KEYS - 1:,}"
                )
        return key


class Machine:
    """The stack, the memo and the position in the data."""

    def __init__(
        self,
        data: Bytes,
        call: Call,
        persistent: Callable[[Any], Any],
        start: int,
        end: int,
        limits: Limits,
    ):
        self.data, self.position, self.end, self.limits = data, start, end, limits
        self.call, self.persistent = call, persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.skipped: dict[str, int] = {}
        self.objects = 0

    def read(self, count: int) -> bytes:
        """The next bytes."""
        next(islice(self.limits.opcodes, READ_COSTS - 2, None), None)
        start, stop = self.position, self.position + count
        if count < 0 or stop > self.end:
            raise DamagedError("its pickle ends early")
        self.position = stop
        return bytes(self.data[start:stop])

    def number(self, form: struct.Struct) -> Any:
        """The next number, of this form."""
        start = self.position
        self.position += form.size
        if self.position > self.end:
            raise DamagedError("its pickle ends early")
        return form.unpack_from(self.data, start)[0]

    def byte(self) -> int:
        """The next byte, as a number."""
        value: int = self.data[self.position]  # one beyond `end` makes the next read fail
        self.position += 1
        return value

    def line(self) -> bytes:
        """The bytes up to the next newline, which is skipped."""
        stop = self.data.find(b"\n", self.position, self.end)
        if stop < 0:
            raise DamagedError("its pickle ends early")
        found = self.read(stop - self.position)
        self.position += 1
        return found

    def push(self, value: Any) -> None:
        """Push a value that takes no memory of its own."""
        self.stack.append(value)

    def new(self, value: Any) -> None:
        """Push a value that takes memory."""
        self.objects += 1
        if self.objects > MOST_OBJECTS:
            raise DamagedError(f"its pickle has more than {MOST_OBJECTS:,} objects")
        self.stack.append(value)

    def mark(self) -> None:
        """Begin a new stack on top of this one."""
        if len(self.marks) >= MOST_MARKS:
            raise DamagedError(f"its pickle has more than {MOST_MARKS:,} marks")
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """The values since the last mark, which is removed."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def remember(self, place: int) -> None:
        """Store the topmost value in the memo."""
        if len(self.memo) >= MOST_OBJECTS:
            raise DamagedError(f"its pickle remembers more than {MOST_OBJECTS:,} objects")
        value = self.memo[place] = self.stack[-1]
        if isinstance(value, Unfinished):
            value.places.append(place)

    def named(self, module: Any, name: Any) -> None:
        """Push the name of a class or function."""
        self.new(Global(f"{module}.{name}"))

    def reduce(self, function: Any, arguments: Any) -> None:
        """Push what the function would make of the arguments."""
        if isinstance(function, Global) and isinstance(arguments, tuple):
            value = self.call(function.name, arguments)
            if isinstance(value, StandIn) and not isinstance(value, Unfinished):
                self.skipped[function.name] = self.skipped.get(function.name, 0) + 1
        else:  # not a function, for example an object of an unknown class
            value = StandIn(_name(function))
            self.skipped[value.name] = self.skipped.get(value.name, 0) + 1
        self.new(value)

    def build(self) -> None:
        """Give the topmost value its state."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Unfinished):
            self.stack[-1] = target.finish(state)
            for place in target.places:
                self.memo[place] = self.stack[-1]
        elif isinstance(target, StandIn):
            target.state = state

    def set_items(self, target: Any, items: list[Any]) -> None:
        """Set keys and values, in turn, of a dict."""
        if isinstance(target, dict):
            key_of = self.limits.key
            target.update(
                (key_of(key), value) for key, value in zip(items[::2], items[1::2], strict=True)
            )
        # the items of other objects are dropped

    def extend(self, target: Any, items: list[Any]) -> None:
        """Append to a list."""
        if isinstance(target, list):
            target.extend(items)


def _name(function: Any) -> str:
    return function.name if isinstance(function, (Global, StandIn)) else type(function).__name__
