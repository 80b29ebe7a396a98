"""What makes compiling, which is most of a test's time, cheaper."""

import atexit
import os
import shutil
import tempfile
import threading
from functools import cache
from typing import Any

import jax
from jax._src.interpreters import mlir  # nothing public says in which context programs are lowered

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


def compile_once() -> None:
    """Share compiled programs between all processes of one run of the tests, in a temporary folder.

    The workers and the processes that tests start inherit the environment, so that only the first
    process makes the folder, and removes it at its end.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="flax-bilstm-tests-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    settings = {
        "jax_compilation_cache_dir": os.environ["JAX_COMPILATION_CACHE_DIR"],
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():  # JAX may have been imported before
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)


def lower_in_one_context() -> None:
    """Lower all programs of a thread in one context of MLIR.

    JAX makes one for each program, which takes 5 ms; a run of the tests lowers some 10,000.
    """
    make, kept = mlir.make_ir_context, threading.local()

    def context() -> Any:
        if not hasattr(kept, "context"):
            kept.context = make()
        return kept.context

    mlir.make_ir_context = context
