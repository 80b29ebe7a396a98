"""What keeps a state dict from being loaded into rows: all of it, and the likely `names=`."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flax_bilstm.conversion.rows import Path, Row, dotted
from flax_bilstm.conversion.transforms import identical

MOST_LISTED = 40
"""Problems that one error lists; it says how many more there are."""


def expected_tensors(
    rows: Sequence[Row], variables: Mapping[Path, Any]
) -> dict[str, jax.ShapeDtypeStruct]:
    """Torch name → the shape and dtype that the module's variables need."""
    expected = {}
    for row in rows:
        if any(path not in variables for path in row.paths):
            assert row.default is not None
            tensors: Sequence[np.ndarray] = [row.default] * len(row.torch_names)
        else:
            # Strides of 0: the shape and dtype of a variable without its memory.
            leaves = [
                np.broadcast_to(np.zeros((), variables[path].dtype), variables[path].shape)
                for path in row.paths
            ]
            tensors = row.transform.to_torch(leaves)
        for name, tensor in zip(row.torch_names, tensors, strict=True):
            expected[name] = jax.ShapeDtypeStruct(tensor.shape, tensor.dtype)
    return expected


def problems(
    expected: Mapping[str, jax.ShapeDtypeStruct | None], arrays: Mapping[str, np.ndarray]
) -> Iterator[str]:
    """What does not fit, a line each. An expectation of None leaves the shape open."""
    for name, want in expected.items():
        if name not in arrays:
            yield f"missing: {name}, expected shape {'unknown' if want is None else want.shape}"
            continue
        array = arrays[name]
        if want is not None and array.shape != want.shape:
            yield f"shape: {name}, expected {want.shape}, got {array.shape}"
        if want is not None and array.dtype != want.dtype:
            yield f"dtype: {name}, expected {want.dtype}, got {array.dtype}"
    for name in arrays:
        if name not in expected:
            yield f"unexpected: {name}, shape {arrays[name].shape}"


def not_finite(names: Iterable[str], arrays: Mapping[str, np.ndarray]) -> Iterator[str]:
    """A line for each of the tensors that has a value that is not finite."""
    for name in names:
        array = arrays.get(name)
        if array is None or not jnp.issubdtype(array.dtype, jnp.inexact):
            continue
        finite = np.isfinite(array)
        if not finite.all():
            bad = np.argwhere(~finite)
            first = tuple(map(int, bad[0]))
            yield f"not finite: {name}, {len(bad)} of {array.size} values, the first at {first}"


def not_exact(row: Row, tensors: Sequence[np.ndarray], leaves: Sequence[np.ndarray]) -> str | None:
    """A line if the row's transform does not give back the bits that it was handed."""
    back, again = row.to_torch(leaves), row.from_torch(row.to_torch(leaves))
    if not all(map(identical, again, leaves)):
        return f"not exact: {', '.join(row.torch_names)}, Flax → PyTorch → Flax gives other bits"
    if row.transform.exact and not all(map(identical, back, tensors)):
        return f"not exact: {', '.join(row.torch_names)}, PyTorch → Flax → PyTorch gives other bits"
    return None


def suggestions(
    rows: Sequence[Row],
    expected: Mapping[str, jax.ShapeDtypeStruct],
    arrays: Mapping[str, np.ndarray],
) -> dict[str, str]:
    """The likely `names=`: Flax module → a torch module whose tensors have equal names and shapes.

    Of several the one whose name is most alike.
    """
    surplus = _modules(
        (name, array.shape) for name, array in arrays.items() if name not in expected
    )
    missing: dict[str, dict[str, tuple[int, ...]]] = {}
    for row in rows:
        for name in row.torch_names:
            if name not in arrays:
                owner, _, tensor = name.rpartition(".")
                path = dotted(row.paths[0])
                variable = path if not owner else _owner(path, name, owner)
                missing.setdefault(variable, {})[tensor] = expected[name].shape
    found: dict[str, str] = {}
    for module, tensors in missing.items():
        fitting = [other for other, inside in surplus.items() if inside == tensors]
        nearest = difflib.get_close_matches(module, fitting, 1, cutoff=0.0)
        if nearest:
            found[module] = nearest[0]
            del surplus[nearest[0]]
    return found


def _owner(path: str, name: str, owner: str) -> str:
    """The Flax path of the module whose torch path is `owner`: as many of its first steps."""
    return ".".join(path.split(".")[: owner.count(".") + 1])


def _modules(
    tensors: Iterable[tuple[str, tuple[int, ...]]],
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Module → its tensors' names → shapes."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in tensors:
        owner, _, tensor = name.rpartition(".")
        found.setdefault(owner, {})[tensor] = shape
    return found


def refuse(module: str, listed: Sequence[str], names: Mapping[str, str] | None = None) -> None:
    """Raise one ValueError that lists all problems, if there are any."""
    if not listed:
        return
    lines = list(listed[:MOST_LISTED])
    if len(listed) > MOST_LISTED:
        lines.append(f"... and {len(listed) - MOST_LISTED} more")
    if names:
        likely = ", ".join(
            f'"{flax}": "{torch}"' for flax, torch in list(names.items())[:MOST_LISTED]
        )
        lines.append(f"likely: names={{{likely}}}")
    raise ValueError(
        f"state_dict: does not fit {module}; nothing was loaded. Every tensor and every variable "
        "is needed once: names= says what is called otherwise, ignore= what has no counterpart, "
        "prefix= (flax-bilstm --prefix) names a submodule, param_dtype= (--dtype) casts.\n  "
        + "\n  ".join(lines)
    )


def must_be_finite(variable: Any) -> bool:
    """Whether a variable is one that is computed with: a plain buffer may be a mask of −inf."""
    return variable is None or type(variable) is not nnx.Variable
