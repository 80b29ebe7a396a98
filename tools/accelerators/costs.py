"""The costs of a compiled program, as counted by XLA, including every step of its loops.

XLA's cost analysis counts a loop's body once, and the CUDA compiler returns no analysis without a
GPU. So the analysis is done here on the optimized program's text. Every loop body, including nested
ones, is analysed again alone, and multiplied by the number of steps that were not counted.
"""

import re
from typing import Any, NamedTuple

import jax
from jaxlib import xla_client


class Costs(NamedTuple):
    """The costs of a call on each device: operations, bytes accessed, collective operations.

    Then the bytes of its arguments and of its temporaries.
    """

    flops: float
    bytes_accessed: float
    exchanges: int
    arguments: int
    temporaries: int


COLLECTIVE = re.compile(r" (?:all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(")
ENTRY = re.compile(r"^ENTRY %?([\w.-]+)", re.MULTILINE)
LOOP = re.compile(
    r" while\(.*?condition=%?([\w.-]+), body=%?([\w.-]+)(?:.*?known_trip_count\D+(\d+))?"
)
BOUND = re.compile(r" = s32\[\]\S* constant\((\d+)\)")


def costs(compiled: jax.stages.Compiled) -> Costs:
    """The costs of a program.

    Raises:
        ValueError: the program has a loop whose number of steps is not in its text, or a loop that
            this count does not reach, for example inside a conditional.
    """
    text: Any = compiled.as_text()
    (entry,) = ENTRY.findall(text)
    counted = _count(text, entry)
    if counted.loops != text.count(" while("):
        raise ValueError(f"{text.count(' while(')} loops in the program, {counted.loops} reached")
    memory: Any = compiled.memory_analysis()
    sizes = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    return Costs(*counted.total, counted.exchanges, *sizes)


class _Counted(NamedTuple):
    """One run of a computation: FLOPs and bytes with every loop's body counted once, and in total.

    Then all its collective operations, and the number of loops, including nested ones.
    """

    once: tuple[float, float]
    total: tuple[float, float]
    exchanges: int
    loops: int


def _count(text: str, computation: str) -> _Counted:
    module, own = _as_entry(text, computation)
    once = _analysis(module)
    (flops, accessed), exchanges, loops = once, len(COLLECTIVE.findall(own)), 0
    for condition, body, known in LOOP.findall(own):
        steps, inner = int(known or _bound(text, condition)), _count(text, body)
        flops += steps * inner.total[0] - inner.once[0]
        accessed += steps * inner.total[1] - inner.once[1]
        exchanges += steps * inner.exchanges
        loops += 1 + inner.loops
    return _Counted(once, (flops, accessed), exchanges, loops)


def _bound(text: str, condition: str) -> str:
    """The number that a loop's condition counts up to: the TPU compiler states it only there."""
    bounds = BOUND.findall(_as_entry(text, condition)[1])
    if len(bounds) != 1:
        raise ValueError(f"{condition}: expected a loop that counts up to a number, got {bounds}")
    return str(bounds[0])


def _analysis(text: str) -> tuple[float, float]:
    """Floating-point operations and bytes accessed by the program's entry."""
    xla: Any = xla_client
    hlo = getattr(xla, "hlo", xla._xla)  # it is `_xla` itself in JAX 0.8
    module = hlo.hlo_module_from_text(text)
    found = xla._xla.hlo_module_cost_analysis(jax.devices("cpu")[0].client, module)
    return found["flops"], found["bytes accessed"]


def _as_entry(text: str, computation: str) -> tuple[str, str]:
    """The program with one of its computations as its entry, and that computation's text."""
    _, computations = text.split("\n", 1)  # without the header, which describes the old entry
    computations = computations.replace("\nENTRY ", "\n", 1)
    before, after = re.split(rf"^(?=%?{re.escape(computation)} )", computations, flags=re.MULTILINE)
    return f"HloModule part\n{before}ENTRY {after}", after.split("\n}\n", 1)[0]
