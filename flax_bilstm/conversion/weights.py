"""PyTorch state dicts ↔ Flax modules: strict both ways.

Every tensor and every variable is used exactly once; otherwise nothing is loaded, and one error
lists everything that is wrong. `layers` decides which tensor belongs to which variable, and what
is transposed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, NamedSharding
from jax.typing import DTypeLike

from flax_bilstm import arguments
from flax_bilstm.conversion import fit
from flax_bilstm.conversion.advice import advice
from flax_bilstm.conversion.reading import read_sizes
from flax_bilstm.conversion.rows import Names, Row, matches, rows, variables
from flax_bilstm.conversion.tensors import Cast, copied, to_numpy
from flax_bilstm.conversion.tree import Path, dotted, reach, value_of
from flax_bilstm.initializers import same_key
from flax_bilstm.lstm import LSTM
from flax_bilstm.network import Unused


class Skipped(NamedTuple):
    """What `ignore=` left out: torch's tensors, and Flax paths of variables."""

    tensors: tuple[str, ...]
    variables: tuple[str, ...]


def state_dict(
    module: nnx.Module, *, names: Names | None = None, ignore: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The variables of a module under torch's names, in torch's layout, as NumPy arrays.

    Bit for bit: `load_state_dict` with the result gives the same module, and
    `torch_module.load_state_dict({k: torch.tensor(v) ...}, strict=True)` accepts it.

    Args:
        module: any NNX module; see `load_state_dict`.
        names: Flax path → torch path; see `load_state_dict`.
        ignore: patterns of torch names or Flax paths to leave out.

    Raises:
        ValueError: names or the module's variables do not fit.
    """
    found = variables(arguments.module("module", module))
    return {
        name: tensor
        for row in rows(module, names, ignore)
        for name, tensor in zip(row.torch_names, _tensors(row, found), strict=True)
    }


def _tensors(row: Row, found: Mapping[Path, nnx.Variable[Any]]) -> Sequence[np.ndarray]:
    if any(path not in found for path in row.paths):
        assert row.default is not None
        return row.to_torch([row.default])
    return row.to_torch([value_of(found[path]) for path in row.paths])


def load_state_dict(
    module: nnx.Module,
    state_dict: Mapping[str, Any],
    *,
    names: Names | None = None,
    ignore: Sequence[str] = (),
) -> Skipped:
    """Set every variable of a module from a torch state dict.

    The module may be any NNX module made of layers in the table (`docs/layer-kinds.md`) and
    of other variables, each under its torch name. Submodules have the same names in both
    frameworks unless `names` says otherwise.

    Args:
        module: the module to load into.
        state_dict: torch names → torch tensors or NumPy arrays, of exactly the variables' shapes
            and dtypes.
        names: Flax path → torch path, of modules or of single variables, where the names differ:
            `{"head": "classifier.0"}`. Use a tuple of torch paths for tied weights, whose
            tensors must be equal bit for bit. In a torch path, `*` is the index of modules that
            `nnx.vmap` stacked.
        ignore: patterns (as in a shell) of torch names and Flax paths that have no counterpart.

    Returns:
        What `ignore` left out.

    Raises:
        ValueError: anything is missing, unexpected, of another shape or dtype, or not finite. The
            error lists all of it and suggests `names`, and the module is left unchanged.
        TypeError: a value in names is not a torch path, or ignore is one string.
    """
    arguments.strings("ignore", ignore)
    return _load(module, to_numpy(state_dict), names, ignore)


def _load(
    module: nnx.Module,
    given: Mapping[str, np.ndarray],
    names: Names | None = None,
    ignore: Sequence[str] = (),
) -> Skipped:
    """`load_state_dict`; besides the module's own it needs no memory but for one row's arrays."""
    arrays = {n: a for n, a in given.items() if not matches(n, ignore)} if ignore else given
    found = variables(arguments.module("module", module))
    chosen = rows(module, names, ignore)
    idle = [pattern for pattern in ignore if not _hits(pattern, given, found)]
    _require_fit(module, chosen, arrays, map(_IDLE.format, idle))

    listed = [_not_converted(row, [arrays[name] for name in row.torch_names]) for row in chosen]
    fit.refuse(type(module).__name__, [line for line in listed if line])
    stored = arrays.stored if isinstance(arrays, Cast) else arrays
    for row in chosen:  # transformed again: all arrays at once would be the module twice
        leaves = row.from_torch([stored[name] for name in row.torch_names])
        for path, array in zip(row.paths, leaves, strict=True):
            set_variable(module, found, path, array)
    paths = {path for row in chosen for path in row.paths}
    left = {id(found[path]) for path in paths if path in found}
    return Skipped(
        tuple(name for name in given if name not in arrays),
        tuple(dotted(path) for path, leaf in found.items() if id(leaf) not in left),
    )


def _not_converted(row: Row, tensors: Sequence[np.ndarray]) -> str | None:
    """A line if the row's tensors cannot be converted, or not exactly."""
    try:
        leaves = row.from_torch(tensors)
    except ValueError as error:
        what = "tied" if row.tied else "transform"
        return f"{what}: {', '.join(row.torch_names)}: {error}"
    return fit.not_exact(row, tensors, leaves)


def _require_fit(
    module: nnx.Module,
    chosen: Sequence[Row],
    arrays: Mapping[str, np.ndarray],
    notes: Iterable[str] = (),
) -> None:
    """Raise one ValueError that lists what is missing, unexpected, misshapen or not finite."""
    found = variables(module)
    expected = fit.expected_tensors(chosen, found)
    listed = list(fit.problems(expected, arrays))
    checked = (
        name
        for row in chosen
        if fit.must_be_finite(found.get(row.paths[0]))
        for name in row.torch_names
    )
    listed += fit.not_finite(checked, arrays)
    if listed:
        advised = [*advice(module, chosen, expected, arrays), *notes]
        fit.refuse(type(module).__name__, listed, [*fit.what_helps(listed)], advised)


_IDLE = "note: ignore={!r} matches nothing"


def _hits(pattern: str, arrays: Mapping[str, Any], found: Mapping[Path, Any]) -> bool:
    """Whether a pattern matches a tensor or a variable."""
    return any(matches(name, (pattern,)) for name in (*arrays, *map(dotted, found)))


def set_variable(
    module: nnx.Module, found: Mapping[Path, Any], path: Path, array: np.ndarray
) -> None:
    """Set the variable at `path`, on the devices where it is; one that is missing is added."""
    if path not in found:  # a tensor that Flax's layer has no variable for
        setattr(reach(module, path[:-1]), str(path[-1]), Unused(jnp.asarray(array.copy())))
        return
    value = found[path].get_value()
    sharding: Any = getattr(value, "sharding", None)
    if isinstance(getattr(sharding, "mesh", None), AbstractMesh):  # laid out, but on no device yet
        sharding = NamedSharding(jax.sharding.get_mesh(), sharding.spec)
    own = copied(array, getattr(value, "dtype", array.dtype))
    found[path].set_value(jax.device_put(own, sharding))


def from_state_dict(
    state_dict: Mapping[str, Any],
    *,
    param_dtype: DTypeLike | None = None,
    rngs: nnx.Rngs | None = None,
    **options: Any,
) -> Any:
    """The module that a torch state dict describes, with its weights.

    The state dict of a plain `nn.LSTM` gives an `LSTM`, that of the reference network a
    `BiLSTMWithAttention`; sizes, layers, directions, biases and projection are inferred from the
    names and shapes. For any other network, build it and call `load_state_dict`.

    Args:
        state_dict: torch names → torch tensors or NumPy arrays.
        param_dtype: None keeps the tensors' dtype; a dtype casts to it.
        rngs: for an `LSTM` with dropout, to draw its masks.
        **options: what cannot be inferred from the tensors: `dropout`, `time_major`, `score`,
            `dtype`, `implementation`.

    Raises:
        ValueError: the names fit neither, or a tensor is missing, unexpected, of a wrong shape,
            not finite or of another dtype than the rest. The error lists all of it.
    """
    module, arrays = _described(to_numpy(state_dict), param_dtype, rngs, options)
    _load(module, arrays)
    return module


def check_state_dict(
    state_dict: Mapping[str, Any], param_dtype: DTypeLike | None = None
) -> tuple[str, ...]:
    """Raise the errors of `from_state_dict`, without the memory of a module.

    Returns the names, in the order in which PyTorch has them.
    """
    module, arrays = _described(to_numpy(state_dict), param_dtype, None, {})
    found = rows(module)
    _require_fit(module, found, arrays)
    return tuple(name for row in found for name in row.torch_names)


def _described(
    arrays: Mapping[str, np.ndarray],
    param_dtype: DTypeLike | None,
    rngs: nnx.Rngs | None,
    options: dict[str, Any],
) -> tuple[Any, Mapping[str, np.ndarray]]:
    """The module that the arrays describe, without numbers, and the arrays cast for it."""
    arguments.floating_dtype("param_dtype", param_dtype)
    if rngs is not None:
        arguments.rngs("rngs", rngs)
    kind, sizes = read_sizes(arrays)
    if param_dtype is None:
        # The dtype of most tensors; the rest must have it too.
        param_dtype = Counter(array.dtype for array in arrays.values()).most_common(1)[0][0]
    else:
        arrays = Cast(arrays, param_dtype)  # what is not floating is refused with the rest below
    if jnp.dtype(param_dtype) == jnp.float64 and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "state_dict: its tensors are float64, which JAX holds only with 64-bit numbers on: "
            'expected jax.config.update("jax_enable_x64", True) before, or '
            "param_dtype=jnp.float32 to round them."
        )
    if not jnp.issubdtype(param_dtype, jnp.floating):
        raise ValueError(f"state_dict: expected floating tensors, got {np.dtype(param_dtype)}.")
    module = nnx.eval_shape(  # nothing is drawn only to be overwritten
        lambda: kind(**sizes, **options, param_dtype=param_dtype, rngs=same_key())
    )
    if isinstance(module, LSTM) and isinstance(module.dropout, nnx.Dropout):
        module.dropout = nnx.Dropout(module.dropout.rate, rngs=rngs or nnx.Rngs(0))
    return module, arrays
