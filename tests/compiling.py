"""XLA's options for tests of what is computed, not of its rounding: compiling is most of a test."""

from functools import cache

import jax

UNOPTIMIZED = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""What `jax_disable_most_optimizations` sets."""


@cache
def simple_emitters() -> dict[str, bool]:
    """XLA's older way from fusions to LLVM, if this version of it still has that: it takes a third
    of the time to compile."""
    options = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return {}
    return options
