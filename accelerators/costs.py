"""What a compiled program costs, by XLA's own count, every step of its loops included.

XLA's cost analysis counts a loop's body once, and the CUDA compiler answers with none where there
is no GPU. So the analysis is made here of the optimized program's text, and once more of every loop
body by itself, taken times the steps that the one count left out.
"""

import re
from typing import Any, NamedTuple

import jax
from jaxlib import xla_client


class Costs(NamedTuple):
    """Of one call, on each device: operations, bytes read and written, collective operations.

    Then the bytes that its arguments take, and its temporaries.
    """

    flops: float
    bytes_accessed: float
    exchanges: int
    arguments: int
    temporaries: int


COLLECTIVE = re.compile(r" (?:all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(")
LOOP = re.compile(r" while\(.*?body=%?([\w.-]+)(?:.*?known_trip_count\D+(\d+))?")


def costs(compiled: jax.stages.Compiled, time: int) -> Costs:
    """The costs of a program whose loops all run over `time` steps, unless they say otherwise.

    Raises:
        ValueError: the program has a loop that this count does not follow, one inside another, say.
    """
    text: Any = compiled.as_text()
    entry = text.split("\nENTRY ")[1]
    loops = LOOP.findall(entry)
    if len(loops) != text.count(" while("):
        raise ValueError(f"{text.count(' while(')} loops in the program, {len(loops)} in its entry")
    (flops, accessed), exchanges = _analysis(text), len(COLLECTIVE.findall(entry))
    for body, trips in loops:
        module, body_text = _as_entry(text, body)
        step_flops, step_accessed = _analysis(module)
        steps = int(trips or time)
        flops += (steps - 1) * step_flops
        accessed += (steps - 1) * step_accessed
        exchanges += steps * len(COLLECTIVE.findall(body_text))
    memory: Any = compiled.memory_analysis()
    sizes = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    return Costs(flops, accessed, exchanges, *sizes)


def _analysis(text: str) -> tuple[float, float]:
    """Floating-point operations and bytes accessed by the program's entry."""
    xla: Any = xla_client
    module = xla.hlo.hlo_module_from_text(text)
    found = xla._xla.hlo_module_cost_analysis(jax.devices("cpu")[0].client, module)
    return found["flops"], found["bytes accessed"]


def _as_entry(text: str, computation: str) -> tuple[str, str]:
    """The program whose entry is one of its computations, and that computation's own text."""
    _, computations = text.split("\n", 1)  # without the header, which describes the old entry
    computations = computations.replace("\nENTRY ", "\n", 1)
    before, after = re.split(rf"^(?=%?{re.escape(computation)} )", computations, flags=re.MULTILINE)
    return f"HloModule loop_body\n{before}ENTRY {after}", after.split("\n}\n", 1)[0]
