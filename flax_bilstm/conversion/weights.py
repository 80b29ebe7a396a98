"""PyTorch state dicts ↔ Flax modules: strict both ways.

Every torch key and every Flax leaf is used exactly once, or nothing is loaded and one error lists
all that is wrong. Which tensor goes where, and which way round, stands in `layers`.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from flax_bilstm.conversion.layers import TRANSFORMS, Module, expand, leaves, table
from flax_bilstm.lstm import LSTM
from flax_bilstm.network import BiLSTMWithAttention


def state_dict(module: Module) -> dict[str, np.ndarray]:
    """`module`'s parameters under torch's names, in torch's layout, as NumPy arrays.

    Bit for bit: `load_state_dict` of the result gives the same module, and
    `torch_module.load_state_dict({k: torch.tensor(v) ...}, strict=True)` takes it.
    """
    parameters = leaves(module)
    return {row.torch_name: row.to_torch(parameters[row.path][...]) for row in table(module)}


def load_state_dict(module: Module, state_dict: Mapping[str, Any]) -> None:
    """Set every parameter of `module` from a torch state dict (torch tensors or NumPy arrays).

    Strict: names, shapes and dtypes must be exactly the module's, and every value finite.

    Raises:
        ValueError: anything is missing, unexpected, of another shape or dtype, or not finite. The
            error lists all of it, and the module is left as it was.
    """
    arrays = to_numpy(state_dict)
    parameters = leaves(module)
    rows = table(module)
    expected = {
        row.torch_name: jax.eval_shape(
            TRANSFORMS[row.transform],
            jax.ShapeDtypeStruct(parameters[row.path].shape, parameters[row.path].dtype),
        )
        for row in rows
    }
    _refuse(type(module), _problems(expected, arrays))
    loaded = {
        row.path: jax.device_put(
            # A copy: JAX may use NumPy's memory as it stands, and here that can be PyTorch's own,
            # whose next in-place step would then move this module too.
            row.from_torch(arrays[row.torch_name]).copy(),
            parameters[row.path].get_value().sharding,
        )
        for row in rows
    }
    for path, array in loaded.items():
        parameters[path].set_value(array)


def from_state_dict(
    state_dict: Mapping[str, Any],
    *,
    param_dtype: DTypeLike | None = None,
    rngs: nnx.Rngs | None = None,
    **options: Any,
) -> Any:
    """The module that a torch state dict describes, with its weights.

    A plain `nn.LSTM`'s gives an `LSTM`, the reference network's a `BiLSTMWithAttention`; sizes,
    layers, directions, biases and projection are read off the names and shapes.

    Args:
        state_dict: torch names → torch tensors or NumPy arrays.
        param_dtype: None keeps the tensors' dtype; a dtype casts to it.
        rngs: for an `LSTM` with dropout, whose masks it draws.
        **options: what the tensors do not tell: `dropout`, `time_major`, `score`, `dtype`,
            `implementation`.

    Raises:
        ValueError: the names are neither's, or a tensor is missing, unexpected, misshapen, not
            finite or of another dtype than the rest. The error lists all of it.
    """
    arrays = to_numpy(state_dict)
    kind, sizes = read_sizes(arrays)
    if param_dtype is None:
        # What most tensors have; the rest must have it too.
        param_dtype = Counter(array.dtype for array in arrays.values()).most_common(1)[0][0]
    else:
        arrays = {  # what is not floating stays, and is refused with the rest below
            name: array.astype(param_dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array
            for name, array in arrays.items()
        }
    if jnp.dtype(param_dtype) == jnp.float64 and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "state_dict: its tensors are float64, which JAX holds only with 64-bit numbers on: "
            'expected jax.config.update("jax_enable_x64", True) before, or '
            "param_dtype=jnp.float32 to round them."
        )
    if not jnp.issubdtype(param_dtype, jnp.floating):
        raise ValueError(f"state_dict: expected floating tensors, got {np.dtype(param_dtype)}.")
    module = nnx.eval_shape(  # nothing is drawn only to be overwritten
        lambda: kind(**sizes, **options, param_dtype=param_dtype, rngs=nnx.Rngs(0))
    )
    if isinstance(module, LSTM) and isinstance(module.dropout, nnx.Dropout):
        module.dropout = nnx.Dropout(module.dropout.rate, rngs=rngs or nnx.Rngs(0))
    load_state_dict(module, arrays)
    return module


def to_numpy(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every value as a NumPy array of its own dtype (bfloat16 as ml_dtypes'); no copy if avoidable.

    Raises:
        ValueError: a value is not an array or a dense tensor.
    """
    if not isinstance(state_dict, Mapping):
        raise ValueError(
            "state_dict: expected a mapping from names to tensors, got "
            f"{type(state_dict).__name__}; pass module.state_dict()."
        )
    return {str(name): _to_numpy(str(name), value) for name, value in state_dict.items()}


def _to_numpy(name: str, value: Any) -> np.ndarray:
    if type(value).__module__.partition(".")[0] == "torch" or hasattr(value, "detach"):
        import torch  # the value is torch's, so torch is there

        value = value.detach().cpu()
        if value.dtype == torch.bfloat16:  # NumPy has no bfloat16 of its own
            return value.contiguous().view(torch.int16).numpy().view(jnp.bfloat16)
        return value.numpy()
    array = np.asarray(value)
    if array.dtype == object:
        raise ValueError(f"{name}: expected a tensor or array, got {type(value).__name__}.")
    return array


def read_sizes(arrays: Mapping[str, np.ndarray]) -> tuple[type[Module], dict[str, Any]]:
    """The kind of module that a state dict is of, and its sizes, from names and shapes alone.

    Raises:
        ValueError: the names are neither an LSTM's nor the network's, or a tensor that tells a
            size is missing or no such matrix; the error lists all else that is wrong, too.
    """
    kind, num_layers, has = _read_names(arrays)
    prefix, head = ("lstm.", {"fc.weight": 1}) if kind is BiLSTMWithAttention else ("", {})
    ih, hh = f"{prefix}weight_ih_l0", f"{prefix}weight_hh_l0"
    telling = {ih: 4, hh: 4} | head  # the tensors that tell sizes; rows are a multiple of
    if unclear := list(_unclear(telling, arrays)):
        names = (row.torch_name for row in expand(kind, max(num_layers, 1)))
        expected = [
            name
            for name in names
            if name not in telling and all(there or part not in name for part, there in has.items())
        ]
        rest = {name: array for name, array in arrays.items() if name not in telling}
        _refuse(kind, [*unclear, *_problems(dict.fromkeys(expected), rest)])
    hidden, features = arrays[ih].shape[0] // 4, arrays[ih].shape[1]
    if head:
        outputs = arrays["fc.weight"].shape[0]
        return kind, {"input_dim": features, "hidden_dim": hidden, "output_dim": outputs}
    return kind, {
        "input_size": features,
        "hidden_size": hidden,
        "num_layers": num_layers,
        "bias": has["bias"],
        "bidirectional": has["reverse"],
        "proj_size": arrays[hh].shape[1] if has["weight_hr"] else 0,
    }


def _read_names(arrays: Mapping[str, Any]) -> tuple[type[Module], int, dict[str, bool]]:
    """What the names alone tell: the kind, the layers, and which optional parts a cell has."""
    kind = BiLSTMWithAttention if any("." in name for name in arrays) else LSTM
    layers = {name: int(match["k"]) for name in arrays if (match := _NAME.fullmatch(name))}
    if not layers:
        first = "weight_ih_l0"
        inside = {n.removesuffix(first).removesuffix("lstm.") for n in arrays if first in n}
        found = ", ".join(sorted(prefix for prefix in inside if prefix.endswith(".")))
        raise ValueError(
            "state_dict: expected the names of an nn.LSTM (weight_ih_l0, ...) or of the network "
            f"(lstm.weight_ih_l0, ..., fc.bias), got {sorted(arrays)[:8]} ({len(arrays)} in all); "
            + (f"there is one under {found} " if found else "name a submodule ")
            + "(load takes prefix=, flax-bilstm --prefix)."
        )
    num_layers = next(k for k in itertools.count() if k not in layers.values())  # to the first gap
    has = {"bias": True, "reverse": True, "weight_hr": False}  # the network's LSTM
    if kind is LSTM:
        has = {part: any(part in name for name in layers) for part in has}
    return kind, num_layers, has


_NAME = re.compile(r"(lstm\.)?(weight|bias)_(ih|hh|hr)_l(?P<k>\d+)(_reverse)?")


def _unclear(telling: Mapping[str, int], arrays: Mapping[str, np.ndarray]) -> Iterator[str]:
    """What keeps sizes from being read: name → what a matrix' rows are a multiple of."""
    for name, rows in telling.items():
        shape = arrays[name].shape if name in arrays else None
        if shape is None:
            yield f"missing: {name}, which tells sizes"
        elif len(shape) != 2 or 0 in shape or shape[0] % rows:
            yield f"shape: {name}, expected a matrix of rows in multiples of {rows}, got {shape}"


def _problems(
    expected: Mapping[str, jax.ShapeDtypeStruct | None], arrays: Mapping[str, np.ndarray]
) -> Iterator[str]:
    """All that keeps `arrays` from being loaded. An expectation of None leaves the shape open."""
    for name, want in expected.items():
        if name not in arrays:
            yield f"missing: {name}, expected shape {want.shape if want else 'unknown'}"
            continue
        got = arrays[name]
        if want is not None and got.shape != want.shape:
            yield f"shape: {name}, expected {want.shape}, got {got.shape}"
        if want is not None and got.dtype != want.dtype:
            yield f"dtype: {name}, expected {want.dtype}, got {got.dtype}"
        if not jnp.issubdtype(got.dtype, jnp.floating):
            continue
        bad = np.argwhere(~np.isfinite(got))
        if bad.size:
            first = tuple(map(int, bad[0]))
            yield f"not finite: {name}, {len(bad)} of {got.size} values, the first at {first}"
    for name in arrays:
        if name not in expected:
            yield f"unexpected: {name}, shape {arrays[name].shape}"


def _refuse(kind: type[Module], problems: Iterable[str]) -> None:
    """Raise one ValueError that lists all problems, if there are any."""
    listed = list(problems)
    if listed:
        raise ValueError(
            f"state_dict: does not fit {kind.__name__}; nothing was loaded. It takes the "
            "state dict of the whole module and nothing else; prefix= (flax-bilstm --prefix) names "
            "a submodule, param_dtype= (--dtype) casts.\n  " + "\n  ".join(listed)
        )
