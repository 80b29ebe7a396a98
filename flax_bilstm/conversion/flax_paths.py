"""Loading arrays that are named by Flax paths, as in Orbax directories."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax import nnx

from flax_bilstm import arguments
from flax_bilstm.conversion import fit
from flax_bilstm.conversion.rows import matches, rows, variables
from flax_bilstm.conversion.tree import dotted
from flax_bilstm.conversion.weights import Skipped, set_variable


def load_variables(
    module: nnx.Module, arrays: Mapping[str, np.ndarray], *, ignore: Sequence[str] = ()
) -> Skipped:
    """Set every variable of a module from arrays under Flax paths, with dots.

    As strict as `load_state_dict`; a variable with several paths is set by one of them.

    Raises:
        ValueError: anything is missing, unexpected, or of another shape or dtype.
    """
    arguments.strings("ignore", ignore)
    found = variables(arguments.module("module", module))
    taken = {name: a for name, a in arrays.items() if not matches(name, ignore)}
    first: dict[int, str] = {}
    for path, leaf in found.items():
        if not matches(dotted(path), ignore):
            first.setdefault(id(leaf), dotted(path))
    by_name = {dotted(path): leaf for path, leaf in found.items()}
    expected = {
        name: jax.ShapeDtypeStruct(by_name[name].shape, by_name[name].dtype)
        for name in first.values()
    }
    paths = {dotted(path): path for path in found}
    for row in rows(module):  # variables that loading from torch adds, such as BatchNorm's count
        if row.default is not None and (name := dotted(row.paths[0])) in taken.keys() - by_name:
            expected[name] = jax.ShapeDtypeStruct(row.default.shape, row.default.dtype)
            paths[name] = row.paths[0]
    aliases = by_name.keys() - expected.keys()
    listed = fit.problems(expected, {n: a for n, a in taken.items() if n not in aliases})
    fit.refuse(type(module).__name__, list(listed), [fit.IGNORE])
    for name in expected:
        set_variable(module, found, paths[name], taken[name])
    return Skipped(
        tuple(name for name in arrays if name not in taken),
        tuple(name for name in by_name if matches(name, ignore)),
    )
