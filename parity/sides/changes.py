"""What a call changes in a Flax module, told by the values before and after it.

While a call is traced, that is their identity; transformations give back all values as others.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flax_bilstm.conversion.tree import dotted
from parity.sides.variables import Named, flat


def variables(model: nnx.Module) -> Named:
    """The value of every variable by its path."""
    return {dotted(p): v.get_raw_value() for p, v in flat(nnx.state(model)).items()}


def everything(model: nnx.Module) -> Named:
    """The variables, and the attributes that are none, such as a count of calls."""
    attributes = {
        ".".join(map(str, (*path, name))): value
        for path, module in nnx.iter_modules(model)
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, nnx.Module | nnx.Variable)
    }
    return {**attributes, **variables(model)}


def between(before: Named, after: Named) -> Named:
    """The new values of what is another value than before."""
    return {n: after[n] for n, value in before.items() if not _same(value, after.get(n, value))}


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if any(isinstance(value, jax.core.Tracer) for value in (one, other)):
        return False
    if all(isinstance(value, jax.Array | np.ndarray) for value in (one, other)):
        return jnp.issubdtype(one.dtype, jax.dtypes.prng_key) or np.array_equal(one, other, True)
    ones, others = jax.tree.leaves(one), jax.tree.leaves(other)
    if len(ones) == 1 and ones[0] is one:
        return type(one) is type(other) and bool(one == other)
    return type(one) is type(other) and len(ones) == len(others) and all(map(_same, ones, others))
