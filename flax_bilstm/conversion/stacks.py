"""Modules that `nnx.vmap` stacked in one: all their variables have one more axis, the first."""

from typing import Any

import numpy as np
from flax import nnx

from flax_bilstm.conversion.layers import kind_of
from flax_bilstm.conversion.tree import leaves, modules, reach, split


def stack_size(node: Any) -> int | None:
    """How many modules `nnx.vmap` stacked in this one, None if it is a single one.

    It is a stack if a layer of a known kind inside it has one axis too many, and all its variables
    have the same leading axis.
    """
    if not isinstance(node, nnx.Module) or not any(_is_stacked(module) for module in modules(node)):
        return None
    sizes = {np.shape(leaf.get_value())[:1] for _, leaf in leaves(node)}
    size = sizes.pop() if len(sizes) == 1 else ()
    return size[0] if size else None


def _is_stacked(module: nnx.Module) -> bool:
    kind = kind_of(module)
    first = next(iter(kind.entries(module)), None) if kind else None
    leaf = first and reach(module, split(first.variables[0]))
    return kind is not None and leaf is not None and leaf.ndim == kind.rank(module) + 1
