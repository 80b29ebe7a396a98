"""What each opcode of a pickle does: https://docs.python.org/3/library/pickletools.html.

Every opcode takes a bounded time and memory, whatever the file says.
"""

import codecs
import struct
from collections.abc import Callable

from flax_bilstm.checkpoints.pickle_machine import Machine
from flax_bilstm.checkpoints.stand_ins import DamagedError, Global, StandIn

LARGEST_INTEGER = 64
"""Most bytes of an integer: arithmetic with longer ones, and even printing them, takes long."""


def _long(raw: bytes) -> int | StandIn:
    if len(raw) > LARGEST_INTEGER:
        return StandIn(f"an integer of {len(raw):,} bytes")
    return int.from_bytes(raw, "little", signed=True)


def _integer(line: bytes) -> int | bool:
    return {b"00": False, b"01": True}.get(line, int(line))


def _string(line: bytes) -> str:
    return codecs.escape_decode(line[1:-1])[0].decode("latin1")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _ints(form: str, then: Callable[[Machine, int], None]) -> Callable[[Machine], None]:
    layout = struct.Struct(form)
    return lambda m: then(m, m.number(layout))


def _pop_to_mark(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.since_mark()


def _put_items(m: Machine) -> None:
    items = m.since_mark()
    m.set_items(m.stack[-1], items)


def _put_item(m: Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    m.set_items(m.stack[-1], [key, value])


def _append(m: Machine) -> None:
    value = m.stack.pop()
    m.extend(m.stack[-1], [value])


def _appends(m: Machine) -> None:
    items = m.since_mark()
    m.extend(m.stack[-1], items)


def _dict(m: Machine) -> None:
    items = m.since_mark()
    m.new({})
    m.set_items(m.stack[-1], items)


def _tuple(count: int) -> Callable[[Machine], None]:
    def make(m: Machine) -> None:
        if len(m.stack) < count:
            raise DamagedError("its pickle reads from an empty stack")
        items = tuple(m.stack[-count:])
        del m.stack[-count:]
        m.new(items)

    return make


def _stack_global(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    m.named(module, name)


def _reduce(m: Machine) -> None:
    arguments, function = m.stack.pop(), m.stack.pop()
    m.reduce(function, arguments)


def _new_object(m: Machine) -> None:
    keywords, arguments, cls = m.stack.pop(), m.stack.pop(), m.stack.pop()
    m.reduce(cls, (*arguments, keywords))


def _instance(m: Machine) -> None:
    module, name = _text(m.line()), _text(m.line())
    m.reduce(Global(f"{module}.{name}"), tuple(m.since_mark()))


def _object(m: Machine) -> None:
    cls, *arguments = m.since_mark()
    m.reduce(cls, tuple(arguments))


OPERATIONS: dict[int, Callable[[Machine], None]] = {
    ord(code): operation
    for code, operation in {
        # protocol and framing: nothing to do
        "\x80": lambda m: m.read(1),
        "\x95": lambda m: m.read(8),
        # the stack, marks and the memo
        "(": Machine.mark,
        "0": _pop_to_mark,
        "1": lambda m: m.since_mark(),
        "2": lambda m: m.push(m.stack[-1]),
        "p": lambda m: m.remember(int(m.line())),
        "q": lambda m: m.remember(m.byte()),
        "r": _ints("<I", Machine.remember),
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
        "J": _ints("<i", Machine.push),
        "K": lambda m: m.push(m.byte()),
        "M": _ints("<H", Machine.push),
        "\x8a": _ints("<B", lambda m, count: m.push(_long(m.read(count)))),
        "\x8b": _ints("<i", lambda m, count: m.push(_long(m.read(count)))),
        "F": lambda m: m.push(float(m.line())),
        "G": _ints(">d", Machine.push),
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
        "b": Machine.build,
        "P": lambda m: m.new(m.persistent(_text(m.line()))),
        "Q": lambda m: m.new(m.persistent(m.stack.pop())),
    }.items()
}
