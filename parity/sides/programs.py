"""Programs of JAX that are compiled once: also a second side of the same model compiles nothing.

A program is known by its text after lowering, so that whatever has changed in the code of a model
makes another program of it.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import jax

_COMPILED: dict[str, Any] = {}


class Program:
    """A function of trees of arrays, compiled for each of their shapes and dtypes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._known: dict[Any, Any] = {}

    def __call__(self, *args: Any) -> Any:
        """The function's result."""
        if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
            return self.function(*args)
        leaves, structure = jax.tree.flatten(args)
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
        signature = tuple(
            (leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)) for leaf in leaves
        )
        key = (structure, signature, precision)
        if key not in self._known:
            lowered = jax.jit(self.function).lower(*args)
            options = jax.config.read("jax_disable_most_optimizations")
            text = f"{lowered.as_text()} {structure} {options}"
            known = hashlib.sha256(text.encode()).hexdigest()
            compiled = _COMPILED.get(known) or _COMPILED.setdefault(known, lowered.compile())
            self._known[key] = compiled, lowered.out_tree
        compiled, out_tree = self._known[key]
        return jax.tree.unflatten(out_tree, jax.tree.leaves(compiled(*args)))
