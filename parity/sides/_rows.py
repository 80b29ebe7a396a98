"""Stand-in until the table of layers knows any module: replaced by flax_bilstm.conversion.layers."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx

from flax_bilstm.conversion.layers import Row, expand
from flax_bilstm.lstm import LSTM

KINDS: Any = {
    nnx.Linear: {"kernel": ("weight", "transpose")},
    nnx.LayerNorm: {"scale": ("weight", "identity")},
    nnx.RMSNorm: {"scale": ("weight", "identity")},
    nnx.Embed: {"embedding": ("weight", "identity")},
    nnx.BatchNorm: {
        "scale": ("weight", "identity"), "mean": ("running_mean", "identity"),
        "var": ("running_var", "identity"),
    },
}  # fmt: skip


def rows(module: Any, names: Mapping[str, str] | None = None, ignore: Sequence[str] = ()) -> tuple[Row, ...]:
    names = names or {}
    modules = {tuple(path): part for path, part in nnx.iter_modules(module)}
    found = []
    for path, leaf in nnx.to_flat_state(nnx.state(module)):
        path = tuple(path)
        if isinstance(leaf, nnx.RngState):
            continue
        owner = next((path[:i] for i in range(len(path), -1, -1) if isinstance(modules.get(path[:i]), LSTM)), None)
        if owner is not None:
            lstm = modules[owner]
            (row,) = [r for r in expand(LSTM, lstm.num_layers) if r.path == path[len(owner):]]
            name, transform = _renamed(owner, names), row.transform
            found.append(Row(".".join(filter(None, (name, row.torch_name))), path, transform))
            continue
        owner, own = path[:-1], path[-1]
        name, transform = KINDS.get(type(modules.get(owner)), {}).get(own, (str(own), "identity"))
        whole = names.get(".".join(map(str, path))) or ".".join(filter(None, (_renamed(owner, names), name)))
        found.append(Row(whole, path, transform))
    return tuple(found)


def _renamed(path: Any, names: Mapping[str, str]) -> str:
    dotted = ".".join(map(str, path))
    for i in range(len(path), 0, -1):
        head = ".".join(map(str, path[:i]))
        if head in names:
            return ".".join(filter(None, (names[head], *map(str, path[i:]))))
    return dotted
