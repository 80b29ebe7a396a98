"""JAX programs that are compiled once, so that another side of the same model compiles nothing.

A program is identified by its text after lowering, so that any change in the code of a model
results in another program.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import jax

_COMPILED: dict[str, Any] = {}


class Program:
    """A function of trees of arrays, compiled once for each combination of shapes and dtypes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._known: dict[Any, Any] = {}

    def __call__(self, *args: Any) -> Any:
        """The function's result."""
        config: Any = jax.config
        if config.jax_disable_jit:
            return self.function(*args)
        leaves, structure = jax.tree.flatten(args)
        precision = config.jax_default_matmul_precision
        signature = tuple(
            (leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)) for leaf in leaves
        )
        key = (structure, signature, precision)
        if key not in self._known:
            lowered = jax.jit(self.function).lower(*args)
            options = config.read("jax_disable_most_optimizations")
            text = f"{lowered.as_text()} {structure} {options}"
            known = hashlib.sha256(text.encode()).hexdigest()
            compiled = _COMPILED.get(known) or _COMPILED.setdefault(known, lowered.compile())
            self._known[key] = compiled, lowered.out_tree
        compiled, out_tree = self._known[key]
        return jax.tree.unflatten(out_tree, jax.tree.leaves(compiled(*args)))
