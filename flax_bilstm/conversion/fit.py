"""Checks whether a state dict fits the rows of a module; one error lists everything."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flax_bilstm.conversion.rows import Row
from flax_bilstm.conversion.transforms import identical
from flax_bilstm.conversion.tree import Path, value_of
from flax_bilstm.showing import shown

LONGEST_LINE, LONGEST_ADVICE = 1000, 4000
"""Most characters of one line of an error."""

MOST_LISTED = 40
"""Most problems listed in one error, which says how many more there are."""


def expected_tensors(
    rows: Sequence[Row], variables: Mapping[Path, Any]
) -> dict[str, jax.ShapeDtypeStruct]:
    """Torch name → the shape and dtype that the module's variables need."""
    expected = {}
    for row in rows:
        if any(path not in variables for path in row.paths):
            assert row.default is not None
            leaves = [row.default]
        else:
            # Strides of 0: the shape and dtype of a variable without its memory.
            values = [value_of(variables[path]) for path in row.paths]
            leaves = [np.broadcast_to(np.zeros((), v.dtype), v.shape) for v in values]
        tensors = row.transform.to_torch(leaves)
        for name, tensor in zip(row.torch_names, tensors, strict=True):
            expected[name] = jax.ShapeDtypeStruct(tensor.shape, tensor.dtype)
    return expected


def problems(
    expected: Mapping[str, jax.ShapeDtypeStruct | None], arrays: Mapping[str, np.ndarray]
) -> Iterator[str]:
    """What does not fit, one line each. If the expected value is None, any shape is allowed."""
    for name, want in expected.items():
        if name not in arrays:
            shape = "unknown" if want is None else want.shape
            yield f"missing: {shown(name)}, expected shape {shape}"
            continue
        array = arrays[name]
        if want is not None and array.shape != want.shape:
            yield f"shape: {shown(name)}, expected {want.shape}, got {array.shape}"
        if want is not None and array.dtype != want.dtype:
            yield f"dtype: {shown(name)}, expected {want.dtype}, got {array.dtype}"
    for name in arrays:
        if name not in expected:
            yield f"unexpected: {shown(name)}, shape {arrays[name].shape}"


def not_finite(names: Iterable[str], arrays: Mapping[str, np.ndarray]) -> Iterator[str]:
    """A line for each tensor with a value that is not finite."""
    for name in names:
        array = arrays.get(name)
        if array is None or not jnp.issubdtype(array.dtype, jnp.inexact):
            continue
        finite = np.isfinite(array)
        if not finite.all():
            bad = np.argwhere(~finite)
            first = tuple(map(int, bad[0]))
            count = f"{len(bad)} of {array.size} values"
            yield f"not finite: {shown(name)}, {count}, the first at {first}"


def not_exact(row: Row, tensors: Sequence[np.ndarray], leaves: Sequence[np.ndarray]) -> str | None:
    """A line if converting the row's tensors there and back changes any bits."""
    back = row.transform.to_torch(leaves)
    again = row.from_torch(back)
    if not all(map(identical, again, leaves)):
        return f"not exact: {', '.join(row.torch_names)}, Flax → PyTorch → Flax gives other bits"
    if row.transform.exact and not all(map(identical, back, tensors)):
        return f"not exact: {', '.join(row.torch_names)}, PyTorch → Flax → PyTorch gives other bits"
    return None


def shortened(listed: Sequence[str]) -> list[str]:
    """The first of them, safe to print, and how many more there are."""
    more = len(listed) - MOST_LISTED
    first = (shown(line, LONGEST_LINE) for line in listed[:MOST_LISTED])
    return [*first, *([f"... and {more} more"] if more > 0 else [])]


def refuse(module: str, listed: Sequence[str], advice: Sequence[str] = ()) -> None:
    """Raise one ValueError that lists all problems, if there are any, and then the advice."""
    if not listed:
        return
    lines = [*shortened(listed), *(shown(line, LONGEST_ADVICE) for line in advice)]
    helps = "".join(f" {sentence}." for sentence in _what_helps(listed))
    raise ValueError(
        f"state_dict: does not fit {module}; nothing was loaded.{helps}\n  " + "\n  ".join(lines)
    )


def _what_helps(listed: Sequence[str]) -> Iterator[str]:
    """The arguments that can mend these problems."""
    names: dict[str, list[str]] = {}
    for line in listed:
        problem, _, rest = line.partition(": ")
        names.setdefault(problem, []).append(rest.partition(", ")[0])
    missing, unexpected = names.get("missing", []), names.get("unexpected", [])
    if missing and unexpected:
        yield "names= gives the names that differ"
        inside = {name.partition(".")[2] for name in unexpected if "." in name}
        if any(
            rest == name or rest.endswith(f".{name}") for name in missing[:1] for rest in inside
        ):
            yield "prefix= (flax-bilstm --prefix) names a submodule"
    if missing or unexpected:
        yield "ignore= gives the names without a counterpart"
    if "dtype" in names:
        yield "param_dtype= (--dtype) casts"


def must_be_finite(variable: Any) -> bool:
    """False for a plain buffer, which may be a mask of −inf; True for any other variable."""
    return variable is None or type(variable) is not nnx.Variable
