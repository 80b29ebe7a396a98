"""Checks whether a state dict fits the rows of a module; one error lists everything."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

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


class Problem(NamedTuple):
    """A tensor that does not fit.

    `kind` says how: "missing", "unexpected", "shape", "dtype" or "not finite".
    """

    kind: str
    name: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {shown(self.name)}, {self.detail}"


def problems(
    expected: Mapping[str, jax.ShapeDtypeStruct | None], arrays: Mapping[str, np.ndarray]
) -> Iterator[Problem]:
    """What does not fit. If the expected value is None, any shape is allowed."""
    for name, want in expected.items():
        if name not in arrays:
            shape = "unknown" if want is None else want.shape
            yield Problem("missing", name, f"expected shape {shape}")
        elif want is not None:
            yield from _other_form(name, want, arrays[name])
    for name in arrays:
        if name not in expected:
            yield Problem("unexpected", name, f"shape {arrays[name].shape}")


def _other_form(name: str, want: jax.ShapeDtypeStruct, array: np.ndarray) -> Iterator[Problem]:
    if array.shape != want.shape:
        yield Problem("shape", name, f"expected {want.shape}, got {array.shape}")
    if array.dtype != want.dtype:
        yield Problem("dtype", name, f"expected {want.dtype}, got {array.dtype}")


def not_finite(names: Iterable[str], arrays: Mapping[str, np.ndarray]) -> Iterator[Problem]:
    """The tensors with a value that is not finite."""
    for name in names:
        if name in arrays:
            yield from _not_finite(name, arrays[name])


def _not_finite(name: str, array: np.ndarray) -> Iterator[Problem]:
    if jnp.issubdtype(array.dtype, jnp.inexact) and not (finite := np.isfinite(array)).all():
        bad = np.argwhere(~finite)
        first = tuple(map(int, bad[0]))
        count = f"{len(bad)} of {array.size} values"
        yield Problem("not finite", name, f"{count}, the first at {first}")


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


def refuse(
    module: str, listed: Sequence[Any], helps: Sequence[str] = (), advice: Sequence[str] = ()
) -> None:
    """Raise one ValueError that lists all problems, if there are any, and then the advice."""
    if not listed:
        return
    problems = shortened([str(problem) for problem in listed])
    lines = [*problems, *(shown(line, LONGEST_ADVICE) for line in advice)]
    first = f"state_dict: does not fit {module}; nothing was loaded."
    raise ValueError("\n  ".join([" ".join([first, *helps]), *lines]))


IGNORE = "ignore= gives the names without a counterpart."


def what_helps(listed: Sequence[Problem]) -> Iterator[str]:
    """A sentence for each argument that can mend these problems."""
    names: dict[str, list[str]] = {}
    for problem in listed:
        names.setdefault(problem.kind, []).append(problem.name)
    missing, unexpected = names.get("missing", []), names.get("unexpected", [])
    if missing and unexpected:
        yield "names= gives the names that differ."
        inside = {name.partition(".")[2] for name in unexpected if "." in name}
        if any(rest == missing[0] or rest.endswith(f".{missing[0]}") for rest in inside):
            yield "prefix= (flax-bilstm --prefix) names a submodule."
    if missing or unexpected:
        yield IGNORE
    if "dtype" in names:
        yield "param_dtype= (--dtype) casts."


def must_be_finite(variable: Any) -> bool:
    """False for a plain buffer, which may be a mask of −inf; True for any other variable."""
    return variable is None or type(variable) is not nnx.Variable
