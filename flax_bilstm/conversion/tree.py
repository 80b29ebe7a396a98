"""The contents of a module: its submodules, containers and variables, each under a path."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

Path = tuple[str | int, ...]
"""Names and indices, as NNX has them."""

NO_TENSORS = (nnx.RngState, nnx.Cache, nnx.Intermediate, nnx.Perturbation, nnx.OptState)
"""Variables that no state dict has."""


def children(node: Any) -> Iterator[tuple[str | int, Any]]:
    """The direct children of a module or a container: modules, variables and containers."""
    items: Iterator[tuple[Any, Any]]
    if isinstance(node, (nnx.List, list, tuple)):
        items = iter(enumerate(node))
    elif isinstance(node, nnx.Pytree):
        items = ((key, child) for key, child in vars(node).items() if key[:9] != "_pytree__")
    elif isinstance(node, Mapping):
        items = iter(node.items())
    else:
        return
    kinds = (nnx.Pytree, nnx.Variable, list, tuple, Mapping)
    yield from ((key, child) for key, child in items if isinstance(child, kinds))


def leaves(
    node: Any, path: Path = (), above: tuple[Any, ...] = ()
) -> Iterator[tuple[Path, nnx.Variable[Any]]]:
    """Path and variable, under every path by which it can be reached."""
    if isinstance(node, nnx.Variable):
        if not isinstance(node, NO_TENSORS):
            yield path, node
    elif not any(node is other for other in above):  # otherwise it refers to one of its parents
        for key, child in children(node):
            yield from leaves(child, (*path, key), (*above, node))


def modules(node: Any, above: tuple[Any, ...] = ()) -> Iterator[nnx.Module]:
    """The module itself and all modules inside it."""
    if isinstance(node, nnx.Module):
        yield node
    for _, child in children(node):
        if not isinstance(child, nnx.Variable) and not any(child is other for other in above):
            yield from modules(child, (*above, node))


def reach(node: Any, path: Path) -> Any:
    """The object at a path inside a module, or None."""
    for key in path:
        if isinstance(node, (nnx.List, list, tuple)):
            node = node[int(key)] if int(key) < len(node) else None
        elif isinstance(node, Mapping):
            node = node.get(key, node.get(str(key)))
        else:
            node = getattr(node, str(key), None)
        if node is None:
            return None
    return node


def value_of(variable: nnx.Variable[Any]) -> Any:
    """The array of a variable, whose value may be a Python number."""
    value = variable.get_value()
    return value if hasattr(value, "dtype") else jnp.asarray(value)


def split(path: str) -> Path:
    """The path for a string with dots, as users write it."""
    return tuple(int(part) if part.isdigit() else part for part in path.split(".")) if path else ()


def join(prefix: str, name: str | int) -> str:
    """The torch name `name` inside the module at `prefix`."""
    return f"{prefix}.{name}" if prefix and name != "" else f"{prefix}{name}"


def dotted(path: Path) -> str:
    """The path as a string with dots, as users write it."""
    return ".".join(map(str, path))
