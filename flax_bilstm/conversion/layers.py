"""The one table: torch name ↔ Flax path ↔ transform.

Whether a tensor is transposed stands here alone; its shape decides nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from flax_bilstm.lstm import LSTM
from flax_bilstm.network import BiLSTMWithAttention, Unused

Path = tuple[Any, ...]
"""Names and indices, as NNX has them."""

TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": lambda array: array,
    "transpose": lambda array: array.T,  # its own inverse
}

# torch name, Flax path, transform. {k} is the layer; {suffix} and {direction} go together.
_LSTM_TABLE = (
    ("weight_ih_l{k}{suffix}", "layers.{k}.{direction}.kernel_ih", "transpose"),
    ("weight_hh_l{k}{suffix}", "layers.{k}.{direction}.kernel_hh", "transpose"),
    ("bias_ih_l{k}{suffix}", "layers.{k}.{direction}.bias_ih", "identity"),
    ("bias_hh_l{k}{suffix}", "layers.{k}.{direction}.bias_hh", "identity"),
    ("weight_hr_l{k}{suffix}", "layers.{k}.{direction}.kernel_hr", "transpose"),
)
_NETWORK_TABLE = (
    *((f"lstm.{name}", f"lstm.{path}", transform) for name, path, transform in _LSTM_TABLE),
    ("attention.attn.weight", "attention.attn.kernel", "transpose"),
    ("attention.attn.bias", "attention.attn.bias", "identity"),
    ("fc.weight", "fc.kernel", "transpose"),
    ("fc.bias", "fc.bias", "identity"),
)
TABLES = {LSTM: _LSTM_TABLE, BiLSTMWithAttention: _NETWORK_TABLE}
DIRECTIONS = (("", "forward"), ("_reverse", "reverse"))

Module = LSTM | BiLSTMWithAttention


class Row(NamedTuple):
    """One tensor under both of its names."""

    torch_name: str
    path: Path
    transform: str

    def to_torch(self, leaf: Any) -> np.ndarray:
        """The Flax leaf in torch's layout, as a contiguous NumPy array of the same dtype."""
        return np.ascontiguousarray(TRANSFORMS[self.transform](np.asarray(leaf)))

    def from_torch(self, tensor: np.ndarray) -> np.ndarray:
        """The torch tensor in Flax's layout."""
        return np.ascontiguousarray(TRANSFORMS[self.transform](tensor))


def table(module: Module) -> tuple[Row, ...]:
    """The rows that `module` has, in the order of PyTorch's own state dict.

    Every parameter of the module is in exactly one row, also its `Unused` ones.
    """
    paths = set(leaves(module))
    lstm = module if isinstance(module, LSTM) else module.lstm
    rows = tuple(row for row in expand(type(module), lstm.num_layers) if row.path in paths)
    left_over = paths - {row.path for row in rows}
    if left_over:
        raise TypeError(
            f"module: expected the parameters of an unaltered {type(module).__name__}, got also "
            f"{sorted('.'.join(map(str, path)) for path in left_over)}, which no torch name has."
        )
    return rows


def leaves(module: Module) -> dict[Path, Any]:
    """Path → variable for everything a checkpoint holds (not the dropout's random state)."""
    if type(module) not in TABLES:
        known = " or ".join(kind.__name__ for kind in TABLES)
        raise TypeError(f"module: expected {known}, got {type(module).__name__}.")
    return {
        tuple(path): leaf
        for path, leaf in nnx.iter_graph(module)
        if isinstance(leaf, (nnx.Param, Unused))
    }


def expand(kind: type[Module], num_layers: int) -> Iterator[Row]:
    """Every row that a module of this kind and depth can have, in PyTorch's order."""
    recurrent = [row for row in TABLES[kind] if "{k}" in row[0]]
    for k in range(num_layers):
        for suffix, direction in DIRECTIONS:
            for name, path, transform in recurrent:
                slots = {"k": k, "suffix": suffix, "direction": direction}
                yield Row(name.format(**slots), _path(path.format(**slots)), transform)
    for name, path, transform in TABLES[kind]:
        if "{k}" not in name:
            yield Row(name, _path(path), transform)


def _path(dotted: str) -> Path:
    return tuple(int(part) if part.isdigit() else part for part in dotted.split("."))
