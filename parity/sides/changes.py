"""What a call changes in a Flax module, told by the identity of the values before and after it."""

from flax import nnx

from flax_bilstm.conversion.tree import dotted
from parity.sides.variables import Named, flat


def variables(model: nnx.Module) -> Named:
    """The value of every variable by its path."""
    return {dotted(p): v.get_raw_value() for p, v in flat(nnx.state(model)).items()}


def untrained(model: nnx.Module) -> Named:
    """Those of the variables that no optimizer trains."""
    found = flat(nnx.state(model)).items()
    return {dotted(p): v.get_raw_value() for p, v in found if not isinstance(v, nnx.Param)}


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
    return {n: after[n] for n, value in before.items() if after.get(n, value) is not value}
