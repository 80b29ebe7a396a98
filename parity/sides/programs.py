"""JAX programs that are compiled once, so that another side of the same model compiles nothing.

A program is identified by its text after lowering, so that any change in the code of a model
results in another program.
"""

import hashlib
import os
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_METADATA = re.compile(r'parity = "\d+"')
"""What `parity.sides.flax_masks` adds to a program, so that JAX traces it again."""
_COMPILED: dict[str, Future[Any]] = {}
SIMPLY = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_parallel_codegen_split_count": 1,
}
"""XLA makes simpler machine code of the same operations, in less than half of the time. Without its
optimizations (`xla_backend_optimization_level`) it would take less still, but be wrong: what is
used twice is computed twice, rounded otherwise, so that no element is equal to the largest one."""


class Started(NamedTuple):
    """A program that is being compiled, and the shapes and dtypes of its results."""

    compiled: Future[Any]
    outputs: Any


class Program:
    """A function of trees of arrays, compiled once for each combination of shapes and dtypes.

    Float32 and bfloat16 programs are compiled as for users, since their rounding is judged.
    A float64 program is judged by its meaning, and compiled simply.

    Args:
        function: the function.
        simply: whether it is compiled simply in all dtypes.
    """

    def __init__(self, function: Callable[..., Any], *, simply: bool = False) -> None:
        self.function, self.simply = function, simply
        self._known: dict[Any, Any] = {}

    def __call__(self, *args: Any) -> Any:
        """The function's result. Arguments are arrays of JAX or NumPy."""
        config: Any = jax.config
        if config.jax_disable_jit:
            return self.function(*jax.tree.map(jnp.asarray, args))
        compiled, outputs = self.start(*args)
        found = compiled.result()(*args)
        return jax.tree.unflatten(jax.tree.structure(outputs), jax.tree.leaves(found))

    def start(self, *args: Any) -> Started:
        """Start to compile for such arguments, in another thread, unless it is compiled.

        Only the arguments' shapes and dtypes matter.
        """
        config: Any = jax.config
        leaves, structure = jax.tree.flatten(args)
        precision = config.jax_default_matmul_precision
        signature = tuple(
            (leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)) for leaf in leaves
        )
        key = (structure, signature, precision)
        if key not in self._known:
            self._known[key] = self._lowered(args, key, self.simply or config.jax_enable_x64)
        return self._known[key]

    def _lowered(self, args: Any, key: Any, simply: bool) -> Started:
        config: Any = jax.config
        lowered = jax.jit(self.function).lower(*args)
        options = config.read("jax_disable_most_optimizations"), simply
        # The text has only the arguments that are used; all must be those it was compiled for.
        text = f"{_METADATA.sub('', lowered.as_text())} {key} {options}"
        known = hashlib.sha256(text.encode()).hexdigest()
        if known not in _COMPILED:
            _COMPILED[known] = _compilers().submit(_compile, lowered, simply)
        return Started(_COMPILED[known], lowered.out_info)


@cache
def _compilers() -> ThreadPoolExecutor:
    # One core is left to what calls the programs.
    return ThreadPoolExecutor(2 if (os.cpu_count() or 1) > 2 else 1, "compile")


def _compile(lowered: Any, simply: bool) -> Any:
    try:
        return lowered.compile(compiler_options=SIMPLY if simply else {})
    except jax.errors.JaxRuntimeError:
        if not simply:
            raise
        return lowered.compile()  # this version of XLA does not have the options
