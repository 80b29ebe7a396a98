"""Pickles read as data: nothing in them is imported or called, and only plain values are built.

If an opcode names a class or a function, `KNOWN` in `rebuilt` may say which plain value it makes;
any other becomes a `StandIn`, which records its name.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax_bilstm.checkpoints import pickle_machine
from flax_bilstm.checkpoints.opcodes import OPERATIONS
from flax_bilstm.checkpoints.pickle_machine import Call, Limits, Machine
from flax_bilstm.checkpoints.stand_ins import Bytes, DamagedError

STOP = ord(".")


class Result(NamedTuple):
    """The value of a pickle, where the pickle ends, and the functions that were not called."""

    value: Any
    end: int
    skipped: Mapping[str, int]


def load(
    data: Bytes,
    call: Call,
    persistent: Callable[[Any], Any],
    limits: Limits,
    start: int = 0,
    end: int = -1,
) -> Result:
    """Read one pickle from data[start:end].

    Args:
        data: the bytes.
        call: makes the value of a known function and its arguments, or a StandIn.
        persistent: makes the value of a persistent id (in PyTorch's files: a storage).
        limits: what the pickle may have, together with the others of its file.
        start: where the pickle begins.
        end: where it must have ended; -1 for the end of the data.

    Raises:
        DamagedError: it is not a pickle, or needs more than its length can explain.
    """
    end = len(data) if end < 0 else end
    machine = Machine(data, call, persistent, start, end, limits)
    try:
        value = _run(machine)
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


def _run(machine: Machine) -> Any:
    data, end = machine.data, machine.end
    for _ in machine.limits.opcodes:
        if machine.position >= end:
            raise DamagedError("its pickle ends early")
        opcode = data[machine.position]
        machine.position += 1
        if opcode == STOP:
            return machine.stack.pop()
        operation = OPERATIONS.get(opcode)
        if operation is None:
            raise DamagedError(f"its pickle has an unknown opcode {opcode:#x}")
        operation(machine)
    most = pickle_machine.MOST_OPCODES
    raise DamagedError(f"its pickles have more than {most:,} opcodes in all")
