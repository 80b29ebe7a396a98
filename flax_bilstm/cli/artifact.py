"""The file that `flax-bilstm export` writes: a program with its weights inside.

It is what `Exported.serialize()` of a program with these constants would be. JAX needs five copies
of the weights to make that; here each weight goes from its array into the file, and comes back as
an argument of the program, since XLA needs several copies of the constants that it compiles.
"""

import dataclasses
import gc
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.mlir import ir, passmanager
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters.mlir import make_ir_context
from jaxtyping import Array

from flax_bilstm.checkpoints.mapped import forget, mapped

LARGEST = 2**31 - 2**20  # bytes
"""Of the weights in a file: FlatBuffers, its format, has at most 2 GiB."""

TAKEN_OUT = 2**10  # bytes
"""Smaller constants stay in the program: among them are the sizes that it computes with."""

PLACE = b"the module comes here"

HEAD = re.compile(rb"ML\xefR(.)StableHLO_v([\d.]+)\0", re.DOTALL)
"""The beginning of a module in StableHLO's portable form, with the versions of MLIR and StableHLO.

https://mlir.llvm.org/docs/BytecodeFormat
"""


class Program(NamedTuple):
    """An exported function, and the last of its arguments: the weights."""

    function: jax.export.Exported
    weights: list[Any]


def write(program: Program, path: Path) -> None:
    """Write the function of its other arguments, with the weights inside; empties their list.

    Raises:
        ImportError: flatbuffers is not installed.
        ValueError: the weights are more than a file can hold.
        OSError: it cannot be written.
    """
    function, weights = program
    size = sum(weight.nbytes for weight in weights)
    if size > LARGEST:
        raise ValueError(
            f"CHECKPOINT: expected at most {LARGEST:,} bytes of weights, which is what a file of "
            f"jax.export can hold, got {size:,}; cast them, for instance with --dtype bfloat16."
        )
    inputs = function.in_avals[: len(function.in_avals) - len(weights)]
    head = HEAD.match(function.mlir_module_serialized)
    assert head is not None
    with make_ir_context() as context, ir.Location.unknown():
        module = stablehlo.deserialize_portable_artifact(context, function.mlir_module_serialized)
        _put_inside(_main(module), weights, len(function.in_avals), function.module_kept_var_idx)
        _make_portable(module, head[2].decode())
        with path.open("wb") as file:
            file.write(_whose_module_is_at_its_end(_taking(function, inputs, PLACE)))
            length_at = file.tell()
            file.write(bytes(4) + head[0])
            stream = _Stream(file)
            module.operation.write_bytecode(stream, head[1][0] >> 1)
            stream.check()
            length = file.tell() - length_at - 4
            file.seek(length_at)
            file.write(struct.pack("<I", length))


def read(path: Path) -> Program:
    """The function in the file, which takes its large constants after its other arguments."""
    data: Any = mapped(path)  # not the bytearray of JAX's annotation, which would be a copy
    function = jax.export.deserialize(data)
    forget({"module": np.frombuffer(data, np.uint8)})  # it is in the function's bytes now
    with make_ir_context() as context, ir.Location.unknown():
        module = stablehlo.deserialize_portable_artifact(context, function.mlir_module_serialized)
        function = _taking(function, function.in_avals, b"")  # its bytes are in the module now
        weights = list(_taken_out(_main(module)))
        small = stablehlo.serialize_portable_artifact(module, stablehlo.get_current_version())
    arguments = (*function.in_avals, *map(jax.typeof, weights))
    return Program(_taking(function, arguments, small), weights)


def _taking(function: jax.export.Exported, arguments: tuple[Any, ...], module: bytes) -> Any:
    """`function` with another module, which takes other arguments: fewer at the end, or more."""
    before, count = len(function.in_avals), len(arguments)
    kept = (k for k in function.module_kept_var_idx if k < count)
    shardings = {
        name: (*getattr(function, name)[:count], *[None] * (count - before))
        for name in ("in_shardings_hlo", "_in_named_shardings")
        if hasattr(function, name)  # since JAX 0.9 both
    }
    changed: Any = shardings | {
        "in_avals": arguments,
        "in_tree": jax.tree.structure((arguments, {})),
        "module_kept_var_idx": (*kept, *range(before, count)),
        "mlir_module_serialized": module,
        "_get_vjp": None,
    }
    return dataclasses.replace(function, **changed)


def _main(module: ir.Module) -> Any:
    return ir.SymbolTable(module.operation)["main"]


def _put_inside(main: Any, weights: list[Any], count: int, used: tuple[int, ...]) -> None:
    """Make constants of the weights, which are the last of `count` arguments, if they are used."""
    block = main.entry_block
    with ir.InsertionPoint.at_block_begin(block):
        for index in reversed(range(count - len(weights), count)):
            weight = weights.pop()
            if index in used:
                last = len(block.arguments) - 1
                value = ir.DenseElementsAttr.get(weight)
                block.arguments[last].replace_all_uses_with(stablehlo.constant(value))
                block.erase_argument(last)
            del weight
            gc.collect(0)  # JAX gives deleted memory back when Python collects
    _state_type(main)


def _taken_out(main: Any) -> Iterator[Array]:
    """Make arguments of the large constants, and yield their arrays."""
    block = main.entry_block
    for operation in list(block.operations):
        if operation.operation.name != "stablehlo.constant":
            continue
        array = np.asarray(operation.value)
        if array.nbytes >= TAKEN_OUT:
            yield jnp.array(array)
            gc.collect(0)
            argument = block.add_argument(operation.result.type, ir.Location.unknown())
            operation.result.replace_all_uses_with(argument)
            operation.operation.erase()
    _state_type(main)


def _state_type(main: Any) -> None:
    """Make the function's type that of its arguments."""
    types = [argument.type for argument in main.entry_block.arguments]
    main.attributes["function_type"] = ir.TypeAttr.get(
        ir.FunctionType.get(types, main.type.results)
    )
    attributes = [*main.arg_attrs, *[ir.DictAttr.get({})] * len(types)]
    main.attributes["arg_attrs"] = ir.ArrayAttr.get(attributes[: len(types)])


def _make_portable(module: ir.Module, version: str) -> None:
    """What `stablehlo.serialize_portable_artifact` does before it writes."""
    stablehlo.register_stablehlo_passes()
    passes = f"builtin.module(stablehlo-legalize-to-vhlo,vhlo-to-version{{target={version}}})"
    passmanager.PassManager.parse(passes).run(module.operation)


def _whose_module_is_at_its_end(function: jax.export.Exported) -> bytearray:
    """The serialized `function`, in which the module is the bytes that will follow.

    A vector in FlatBuffers is four bytes of its length and its elements, anywhere after the four
    bytes that have its distance from them. These are among the fields of the table that the file
    begins with: https://flatbuffers.dev/internals
    """
    data = bytearray(_serialized(function))
    data += bytes(-len(data) % 4)
    vector = data.index(PLACE) - 4

    def number(at: int, form: str = "<I") -> int:
        return struct.unpack_from(form, data, at)[0]

    table = number(0)
    fields = table - number(table, "<i")
    size = number(fields, "<H")
    places = [table + number(at, "<H") for at in range(fields + 4, fields + size, 2)]
    (pointer,) = (at for at in places if at != table and at + number(at) == vector)
    struct.pack_into("<I", data, pointer, len(data) - pointer)
    return data


def _serialized(function: jax.export.Exported) -> bytearray:
    try:
        return function.serialize()
    except ImportError as error:
        raise ImportError(
            "jax.export writes and reads its artifacts with flatbuffers, which is not installed; "
            "run pip install 'flax-bilstm[export]'."
        ) from error


class _Stream:
    """A file for MLIR's writer, without the head, which is written already.

    The writer is C++ code that an exception would abort, so `check` raises it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.in_head = True
        self.error: BaseException | None = None

    def write(self, data: bytes) -> None:
        """Write what comes after the first zero."""
        if self.error is not None:
            return
        try:
            if self.in_head:
                _, zero, data = data.partition(b"\0")
                self.in_head = not zero
            self.file.write(data)
        except BaseException as error:
            self.error = error

    def check(self) -> None:
        """Raise the error of a write, if there was one."""
        if self.error is not None:
            raise self.error
