"""Pickles read as data: nothing in them is imported or called, and only plain values are built.

The opcodes are those of https://docs.python.org/3/library/pickletools.html. If one of them names
a class or a function, `KNOWN` in `rebuilt` may say which plain value it makes; any other becomes a
`StandIn`, which records its name. Every opcode takes a bounded time and memory, whatever the
file says.
"""

import codecs
import mmap
import struct
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

STOP = ord(".")
MOST_OPCODES = 12_000_000
MOST_OBJECTS = 2_000_000


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


Call = Callable[[str, tuple[Any, ...]], Any]


class Result(NamedTuple):
    """The value of a pickle, where the pickle ends, and the functions that were not called."""

    value: Any
    end: int
    skipped: Mapping[str, int]


def load(
    data: Bytes, call: Call, persistent: Callable[[Any], Any], start: int = 0, end: int = -1
) -> Result:
    """Read one pickle from data[start:end].

    Args:
        data: the bytes.
        call: makes the value of a known function and its arguments, or a StandIn.
        persistent: makes the value of a persistent id (in PyTorch's files: a storage).
        start: where the pickle begins.
        end: where it must have ended; -1 for the end of the data.

    Raises:
        DamagedError: it is not a pickle, or needs more than its length can explain.
    """
    machine = _Machine(data, call, persistent, start, len(data) if end < 0 else end)
    try:
        value = machine.run()
    except DamagedError:
        raise
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        UnicodeError,
        ValueError,
        struct.error,
    ) as error:
        raise DamagedError(
            f"its pickle cannot be read at byte {machine.position - start} ({type(error).__name__})"
        ) from error
    return Result(value, machine.position, machine.skipped)


class _Machine:
    """The stack, the memo and the position in the data."""

    def __init__(
        self, data: Bytes, call: Call, persistent: Callable[[Any], Any], start: int, end: int
    ):
        self.data, self.position, self.end = data, start, end
        self.call, self.persistent = call, persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.skipped: dict[str, int] = {}
        self.objects = 0

    def run(self) -> Any:
        data, end = self.data, self.end
        for _ in range(MOST_OPCODES):
            if self.position >= end:
                raise DamagedError("its pickle ends early")
            opcode = data[self.position]
            self.position += 1
            if opcode == STOP:
                return self.stack.pop()
            operation = OPERATIONS.get(opcode)
            if operation is None:
                raise DamagedError(f"its pickle has an unknown opcode {opcode:#x}")
            operation(self)
        raise DamagedError(f"its pickle has more than {MOST_OPCODES:,} opcodes")

    def read(self, count: int) -> bytes:
        start, stop = self.position, self.position + count
        if count < 0 or stop > self.end:
            raise DamagedError("its pickle ends early")
        self.position = stop
        return bytes(self.data[start:stop])

    def number(self, form: struct.Struct) -> Any:
        start = self.position
        self.position += form.size
        if self.position > self.end:
            raise DamagedError("its pickle ends early")
        return form.unpack_from(self.data, start)[0]

    def byte(self) -> int:
        value: int = self.data[self.position]  # one beyond `end` makes the next read fail
        self.position += 1
        return value

    def line(self) -> bytes:
        stop = self.data.find(b"\n", self.position, self.end)
        if stop < 0:
            raise DamagedError("its pickle ends early")
        found = self.read(stop - self.position)
        self.position += 1
        return found

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def new(self, value: Any) -> None:
        """Push a value that takes memory."""
        self.objects += 1
        if self.objects > MOST_OBJECTS:
            raise DamagedError(f"its pickle has more than {MOST_OBJECTS:,} objects")
        self.stack.append(value)

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def remember(self, place: int) -> None:
        value = self.memo[place] = self.stack[-1]
        if isinstance(value, Unfinished):
            value.places.append(place)

    def named(self, module: Any, name: Any) -> None:
        self.new(Global(f"{module}.{name}"))

    def reduce(self, function: Any, arguments: Any) -> None:
        if isinstance(function, Global) and isinstance(arguments, tuple):
            value = self.call(function.name, arguments)
            if isinstance(value, StandIn) and not isinstance(value, Unfinished):
                self.skipped[function.name] = self.skipped.get(function.name, 0) + 1
        else:  # not a function, for example an object of an unknown class
            value = StandIn(_name(function))
            self.skipped[value.name] = self.skipped.get(value.name, 0) + 1
        self.new(value)

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Unfinished):
            self.stack[-1] = target.finish(state)
            for place in target.places:
                self.memo[place] = self.stack[-1]
        elif isinstance(target, StandIn):
            target.state = state

    def set_items(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, dict):
            target.update(
                (_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True)
            )
        # the items of other objects are dropped

    def extend(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, list):
            target.extend(items)


def _name(function: Any) -> str:
    return function.name if isinstance(function, (Global, StandIn)) else type(function).__name__


def _key(key: Any) -> Hashable:
    """A key whose hash is cheap: hashing nested tuples can take forever."""
    if isinstance(key, tuple):
        plain = all(isinstance(each, (str, int, float, bytes)) for each in key)
        return key if plain else StandIn("tuple")
    return key if isinstance(key, Hashable) else StandIn(type(key).__name__)


def _long(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


def _integer(line: bytes) -> int | bool:
    return {b"00": False, b"01": True}.get(line, int(line))


def _string(line: bytes) -> str:
    return codecs.escape_decode(line[1:-1])[0].decode("latin1")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _ints(form: str, then: Callable[[_Machine, int], None]) -> Callable[[_Machine], None]:
    layout = struct.Struct(form)
    return lambda m: then(m, m.number(layout))


def _pop_to_mark(m: _Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.since_mark()


def _put_items(m: _Machine) -> None:
    items = m.since_mark()
    m.set_items(m.stack[-1], items)


def _put_item(m: _Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    m.set_items(m.stack[-1], [key, value])


def _append(m: _Machine) -> None:
    value = m.stack.pop()
    m.extend(m.stack[-1], [value])


def _appends(m: _Machine) -> None:
    items = m.since_mark()
    m.extend(m.stack[-1], items)


def _dict(m: _Machine) -> None:
    items = m.since_mark()
    m.new({})
    m.set_items(m.stack[-1], items)


def _tuple(count: int) -> Callable[[_Machine], None]:
    def make(m: _Machine) -> None:
        if len(m.stack) < count:
            raise DamagedError("its pickle takes what is not there")
        items = tuple(m.stack[-count:])
        del m.stack[-count:]
        m.new(items)

    return make


def _stack_global(m: _Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    m.named(module, name)


def _reduce(m: _Machine) -> None:
    arguments, function = m.stack.pop(), m.stack.pop()
    m.reduce(function, arguments)


def _new_object(m: _Machine) -> None:
    keywords, arguments, cls = m.stack.pop(), m.stack.pop(), m.stack.pop()
    m.reduce(cls, (*arguments, keywords))


def _instance(m: _Machine) -> None:
    module, name = _text(m.line()), _text(m.line())
    m.reduce(Global(f"{module}.{name}"), tuple(m.since_mark()))


def _object(m: _Machine) -> None:
    cls, *arguments = m.since_mark()
    m.reduce(cls, tuple(arguments))


OPERATIONS: dict[int, Callable[[_Machine], None]] = {
    ord(code): operation
    for code, operation in {
        # protocol and framing: nothing to do
        "\x80": lambda m: m.read(1),
        "\x95": lambda m: m.read(8),
        # the stack, marks and the memo
        "(": _Machine.mark,
        "0": _pop_to_mark,
        "1": lambda m: m.since_mark(),
        "2": lambda m: m.push(m.stack[-1]),
        "p": lambda m: m.remember(int(m.line())),
        "q": lambda m: m.remember(m.byte()),
        "r": _ints("<I", _Machine.remember),
        "\x94": lambda m: m.remember(len(m.memo)),
        "g": lambda m: m.push(m.memo[int(m.line())]),
        "h": lambda m: m.push(m.memo[m.byte()]),
        "j": _ints("<I", lambda m, place: m.push(m.memo[place])),
        # plain values
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "I": lambda m: m.push(_integer(m.line())),
        "L": lambda m: m.push(int(m.line().rstrip(b"L"))),
        "J": _ints("<i", _Machine.push),
        "K": lambda m: m.push(m.byte()),
        "M": _ints("<H", _Machine.push),
        "\x8a": _ints("<B", lambda m, count: m.push(_long(m.read(count)))),
        "\x8b": _ints("<i", lambda m, count: m.push(_long(m.read(count)))),
        "F": lambda m: m.push(float(m.line())),
        "G": _ints(">d", _Machine.push),
        "S": lambda m: m.push(_string(m.line())),
        "T": _ints("<i", lambda m, count: m.push(m.read(count).decode("latin1"))),
        "U": _ints("<B", lambda m, count: m.push(m.read(count).decode("latin1"))),
        "V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
        "X": _ints("<I", lambda m, count: m.push(_text(m.read(count)))),
        "\x8c": _ints("<B", lambda m, count: m.push(_text(m.read(count)))),
        "\x8d": _ints("<Q", lambda m, count: m.push(_text(m.read(count)))),
        "B": _ints("<I", lambda m, count: m.push(m.read(count))),
        "C": _ints("<B", lambda m, count: m.push(m.read(count))),
        "\x8e": _ints("<Q", lambda m, count: m.push(m.read(count))),
        "\x96": _ints("<Q", lambda m, count: m.push(m.read(count))),
        # containers; sets as lists, since nothing here needs their hashes
        "}": lambda m: m.new({}),
        "]": lambda m: m.new([]),
        "\x8f": lambda m: m.new([]),
        ")": lambda m: m.push(()),
        "d": _dict,
        "l": lambda m: m.new(m.since_mark()),
        "\x91": lambda m: m.new(m.since_mark()),
        "t": lambda m: m.new(tuple(m.since_mark())),
        "\x85": _tuple(1),
        "\x86": _tuple(2),
        "\x87": _tuple(3),
        "a": _append,
        "e": _appends,
        "\x90": _appends,
        "s": _put_item,
        "u": _put_items,
        # names, and calls
        "c": lambda m: m.named(_text(m.line()), _text(m.line())),
        "\x93": _stack_global,
        "R": _reduce,
        "\x81": _reduce,
        "\x92": _new_object,
        "i": _instance,
        "o": _object,
        "b": _Machine.build,
        "P": lambda m: m.new(m.persistent(_text(m.line()))),
        "Q": lambda m: m.new(m.persistent(m.stack.pop())),
    }.items()
}
