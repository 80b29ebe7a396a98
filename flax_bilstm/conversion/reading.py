"""Which module of this library a state dict belongs to, and its sizes, by names and shapes."""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from flax_bilstm.conversion import fit
from flax_bilstm.conversion.entries import DIRECTIONS, RECURRENT
from flax_bilstm.conversion.recognize import recognize
from flax_bilstm.lstm import LSTM
from flax_bilstm.network import BiLSTMWithAttention
from flax_bilstm.showing import shown

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


class _Layout(NamedTuple):
    """What the names alone determine of a module; the shapes add its sizes."""

    kind: type[Module]
    num_layers: int
    bias: bool
    bidirectional: bool
    projected: bool

    @property
    def prefix(self) -> str:
        """The torch path of the LSTM, with its dot."""
        return "lstm." if self.kind is BiLSTMWithAttention else ""

    def names(self) -> Iterator[str]:
        """Every torch name of the module; of its first layer if it has none."""
        there = {"bias": self.bias, "weight_hr": self.projected}
        for k in range(max(self.num_layers, 1)):
            for suffix, _ in DIRECTIONS[: 1 + self.bidirectional]:
                for tensor, *_ in RECURRENT:
                    if all(has or not tensor.startswith(part) for part, has in there.items()):
                        yield f"{self.prefix}{tensor}_l{k}{suffix}"
        if self.kind is BiLSTMWithAttention:
            yield from ("attention.attn.weight", "attention.attn.bias", "fc.weight", "fc.bias")


def read_sizes(arrays: Mapping[str, np.ndarray]) -> tuple[type[Module], dict[str, Any]]:
    """The kind of module that a state dict belongs to, and its sizes, by names and shapes.

    Raises:
        ValueError: the names are neither an LSTM's nor the network's, or the tensors are those of
            another recurrent class of torch.nn, or a tensor that determines a size is missing or
            not such a matrix; the error also lists everything else.
    """
    _refuse_other_classes(arrays)
    layout = _layout(arrays)
    ih, hh = f"{layout.prefix}weight_ih_l0", f"{layout.prefix}weight_hh_l0"
    rows = {ih: 4, hh: 4}  # the tensors that determine sizes, and what divides their rows
    if layout.kind is BiLSTMWithAttention:
        rows["fc.weight"] = 1
    if problems := list(_size_problems(rows, arrays)):
        wanted = [name for name in layout.names() if name not in rows]
        rest = {name: array for name, array in arrays.items() if name not in rows}
        problems += [*fit.problems(dict.fromkeys(wanted), rest), *fit.not_finite(wanted, rest)]
        fit.refuse(layout.kind.__name__, problems, [*fit.what_helps(problems)])
    hidden, features = arrays[ih].shape[0] // 4, arrays[ih].shape[1]
    if layout.kind is BiLSTMWithAttention:
        outputs = arrays["fc.weight"].shape[0]
        return layout.kind, {"input_dim": features, "hidden_dim": hidden, "output_dim": outputs}
    return layout.kind, {
        "input_size": features,
        "hidden_size": hidden,
        "num_layers": layout.num_layers,
        "bias": layout.bias,
        "bidirectional": layout.bidirectional,
        "proj_size": arrays[hh].shape[1] if layout.projected else 0,
    }


_LOADED_INTO = {
    "LSTMCell": "fb.LSTMCell",
    **dict.fromkeys(("GRU", "GRUCell", "RNN", "RNNCell"), "a module of your own"),
}
"""Other recurrent classes of torch.nn, some with an LSTM's names → what their tensors load into."""


def _refuse_other_classes(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError if the tensors are all of one layer, of one of these classes."""
    layers = recognize(arrays)
    kind = layers[0].kinds[0] if len(layers) == 1 and layers[0].kinds else ""
    if kind in _LOADED_INTO:
        sizes = ", ".join(f"{name}={size}" for name, size in layers[0].sizes.items())
        raise ValueError(
            f"state_dict: expected the tensors of an nn.LSTM or of the network, got those of an "
            f"nn.{kind}({sizes}); load them into {_LOADED_INTO[kind]}, by load_state_dict or "
            "load(into=)."
        )


def _layout(arrays: Mapping[str, Any]) -> _Layout:
    layers = {name: int(match["k"]) for name in arrays if (match := _NAME.fullmatch(name))}
    if not layers:
        first = "weight_ih_l0"
        inside = {n.removesuffix(first).removesuffix("lstm.") for n in arrays if first in n}
        found = ", ".join(sorted(shown(prefix) for prefix in inside if prefix.endswith(".")))
        names = ", ".join(map(shown, sorted(arrays)[:8])) or "none"
        raise ValueError(
            "state_dict: expected the names of an nn.LSTM (weight_ih_l0, ...) or of the network "
            f"(lstm.weight_ih_l0, ..., fc.bias), got {names} ({len(arrays)} in all); "
            + (f"there is one under {found} " if found else "name a submodule ")
            + "(load takes prefix=, flax-bilstm --prefix)."
        )
    numbers = set(layers.values())
    num_layers = next(k for k in itertools.count() if k not in numbers)  # to the first gap
    if any("." in name for name in arrays):
        return _Layout(BiLSTMWithAttention, num_layers, True, True, False)
    parts = ("bias", "_reverse", "weight_hr")
    return _Layout(LSTM, num_layers, *(any(part in name for name in layers) for part in parts))


def _size_problems(
    rows: Mapping[str, int], arrays: Mapping[str, np.ndarray]
) -> Iterator[fit.Problem]:
    """What prevents reading the sizes. `rows`: name → what must divide the matrix' rows."""
    for name, divisor in rows.items():
        shape = arrays[name].shape if name in arrays else None
        if shape is None:
            yield fit.Problem("missing", name, "which determines sizes")
        elif len(shape) != 2 or 0 in shape or shape[0] % divisor:
            wanted = f"expected a matrix of rows in multiples of {divisor}"
            yield fit.Problem("shape", name, f"{wanted}, got {shape}")
