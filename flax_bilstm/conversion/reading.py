"""Which module of this library a state dict belongs to, and its sizes, by names and shapes."""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from flax_bilstm.conversion import fit
from flax_bilstm.conversion.layers import DIRECTIONS, RECURRENT
from flax_bilstm.lstm import LSTM
from flax_bilstm.network import BiLSTMWithAttention

Module = LSTM | BiLSTMWithAttention

_NAME = re.compile(r"(lstm\.)?(weight|bias)_(ih|hh|hr)_l(?P<k>\d+)(_reverse)?")


_PART = re.compile(
    r"(lstm\.(weight|bias)_(ih|hh)_l0(_reverse)?|(attention\.attn|fc)\.(weight|bias)|[^.]*)"
)


def is_ours(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether a state dict belongs to one of this library's modules, even if it is damaged.

    Many networks have an lstm, an attention and an fc, and an nn.GRU has the names of an nn.LSTM.
    So a state dict with one more tensor in one of the parts, or with matrices of the sizes of
    another network, belongs to another network.
    """
    shapes = {name: array.shape for name, array in arrays.items()}
    inside = {name.partition(".")[0] for name in shapes if "." in name}
    if any(_NAME.fullmatch(name) for name in shapes if "." not in name):
        gates = _ratio(shapes.get("weight_hh_l0", ()))
        return not inside and (gates not in (1, 3) or "weight_hr_l0" in shapes)
    width = shapes.get("attention.attn.weight", ())[-1:]
    columns = shapes.get("fc.weight", ())[1:]
    several = (
        bool(width and columns) and columns != width and columns[0] % (width[0] // 2 or 1) == 0
    )
    return (
        inside == {"lstm", "attention", "fc"}
        and all(map(_PART.fullmatch, shapes))
        and any(name.endswith("_reverse") for name in shapes)
        and _ratio(shapes.get("attention.attn.weight", ())) in (None, 1)
        and not several  # fc reads several vectors concatenated, or one direction
    )


def _ratio(shape: tuple[int, ...]) -> float | None:
    """The number of a matrix' rows divided by that of its columns."""
    return shape[0] / shape[1] if len(shape) == 2 and shape[1] else None


def read_sizes(arrays: Mapping[str, np.ndarray]) -> tuple[type[Module], dict[str, Any]]:
    """The kind of module that a state dict belongs to, and its sizes, by names and shapes.

    Raises:
        ValueError: the names are neither an LSTM's nor the network's, or a tensor that determines a
            size is missing or not such a matrix; the error also lists everything else.
    """
    kind, num_layers, has = _read_names(arrays)
    prefix, head = ("lstm.", {"fc.weight": 1}) if kind is BiLSTMWithAttention else ("", {})
    ih, hh = f"{prefix}weight_ih_l0", f"{prefix}weight_hh_l0"
    telling = {ih: 4, hh: 4} | head  # tensors that determine sizes; their rows are a multiple of
    if unclear := list(_unclear(telling, arrays)):
        names = [name for name in _every_name(kind, max(num_layers, 1)) if name not in telling]
        wanted = [n for n in names if all(there or part not in n for part, there in has.items())]
        rest = {name: array for name, array in arrays.items() if name not in telling}
        listed = [*unclear, *fit.problems(dict.fromkeys(wanted), rest)]
        fit.refuse(kind.__name__, [*listed, *fit.not_finite(wanted, rest)])
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
    """What the names determine: the kind, the layers, and which optional parts a cell has."""
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


def _every_name(kind: type[Module], num_layers: int) -> Iterator[str]:
    """Every torch name that a module of this kind and depth can have."""
    prefix = "lstm." if kind is BiLSTMWithAttention else ""
    for k in range(num_layers):
        for suffix, _ in DIRECTIONS:
            yield from (f"{prefix}{tensor}_l{k}{suffix}" for tensor, *_ in RECURRENT)
    if prefix:
        yield from ("attention.attn.weight", "attention.attn.bias", "fc.weight", "fc.bias")


def _unclear(telling: Mapping[str, int], arrays: Mapping[str, np.ndarray]) -> Iterator[str]:
    """What prevents reading the sizes. `telling`: name → divisor of the matrix' rows."""
    for name, rows in telling.items():
        shape = arrays[name].shape if name in arrays else None
        if shape is None:
            yield f"missing: {name}, which tells sizes"
        elif len(shape) != 2 or 0 in shape or shape[0] % rows:
            yield f"shape: {name}, expected a matrix of rows in multiples of {rows}, got {shape}"
