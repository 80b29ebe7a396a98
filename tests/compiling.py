"""What makes compiling, which is most of a test's time, cheaper."""

import atexit
import os
import shutil
import tempfile
import threading
from functools import cache
from typing import Any

import jax
from jax._src import compiler  # nothing public intercepts compilation
from jax._src.interpreters import mlir  # nothing public says in which context programs are lowered

UNOPTIMIZED = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""What `jax_disable_most_optimizations` sets."""


@cache
def simple_code() -> dict[str, bool | int]:
    """Options that make XLA's compilation cheaper, those that this version of it knows.

    Its older way from fusions to LLVM takes a third of the time. Making one LLVM module of a
    program instead of up to 32 saves a fifth of the rest.
    """
    options = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
    return {name: value for name, value in options.items() if _known({name: value})}


def _known(options: dict[str, Any]) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return False
    return True


DRAWS = ("_uniform", "_normal", "_truncated_normal", "_orthogonal")
KEYS = ("_threefry_seed", "_threefry_split", "_threefry_fold_in")
MOVES = (
    *("broadcast_in_dim", "concatenate", "convert_element_type", "copy", "dynamic_slice", "iota"),
    *("pad", "reshape", "select_n", "slice", "split", "squeeze", "stack", "swapaxes", "transpose"),
    "unstack",
)
TRIFLES = frozenset(f"jit_{name}" for name in DRAWS + KEYS + MOVES)
"""Programs whose compilation nothing judges: those that draw initial weights, and single operations
that only move or convert values. There are thousands of them, one for each shape."""


def compile_trifles_quickly() -> None:
    """And once: JAX compiles them again under each of its settings, which change nothing in them.

    Must come before the test modules are imported: several hold models of their own.
    """
    as_ever, overrides = compiler.compile_or_get_cached, simple_code() | UNOPTIMIZED
    known: dict[tuple[str, str], Any] = {}

    def compiled(backend: Any, program: Any, devices: Any, options: Any, *others: Any) -> Any:
        if program.operation.attributes["sym_name"].value not in TRIFLES:
            return as_ever(backend, program, devices, options, *others)
        trifle = (str(program), str(devices))
        if trifle not in known:
            options.env_option_overrides = [*options.env_option_overrides, *overrides.items()]
            known[trifle] = as_ever(backend, program, devices, options, *others)
        return known[trifle]

    compiler.compile_or_get_cached = compiled


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
