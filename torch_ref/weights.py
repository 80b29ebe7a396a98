"""The tensors of a state dict, by layer and direction; keys and shapes determine its options.

The layout is PyTorch's: https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

ENTRY = re.compile(r"(?P<kind>weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)"
                   r"_l(?P<layer>\d+)(?P<reverse>_reverse)?")  # fmt: skip
DIRECTIONS = {"forward": "", "reverse": "_reverse"}  # name → suffix of its keys

Shapes = dict[str, tuple[int, ...]]


class CellWeights(NamedTuple):
    """One direction of one layer. Gates are stacked i, f, g, o along the first axis.

    `state` is hidden, or proj_size if there is a projection (`weight_hr`).
    """

    weight_ih: Float[Tensor, "four_hidden inputs"]
    weight_hh: Float[Tensor, "four_hidden state"]
    bias_ih: Float[Tensor, " four_hidden"] | None
    bias_hh: Float[Tensor, " four_hidden"] | None
    weight_hr: Float[Tensor, "state hidden"] | None

    @property
    def state_sizes(self) -> tuple[int, int]:
        """Features of the hidden state and of the cell state."""
        return self.weight_hh.shape[1], self.weight_hh.shape[0] // 4


Layer = dict[str, CellWeights]  # direction → its weights, forward first


class NetworkWeights(NamedTuple):
    """The weights of the network; features = directions·state of the last layer."""

    lstm: tuple[Layer, ...]
    attn_weight: Float[Tensor, "features features"]
    fc_weight: Float[Tensor, "outputs features"]
    fc_bias: Float[Tensor, " outputs"]


def lstm_weights(state_dict: Mapping[str, Tensor]) -> tuple[Layer, ...]:
    """The layers of an nn.LSTM's state dict.

    If names begin with `lstm.`, it is a network's state dict, and only those entries are read.

    Raises:
        ValueError: names all entries that are missing, unexpected or of a wrong shape or dtype.
    """
    own = {k.removeprefix("lstm."): v for k, v in state_dict.items() if k.startswith("lstm.")}
    entries = own or dict(state_dict)
    shapes = _lstm_shapes(entries)
    _check(entries, shapes)
    num_layers = 1 + max(_layer(name) for name in shapes)
    return tuple(
        {
            direction: CellWeights(
                entries[f"weight_ih_l{layer}{suffix}"],
                entries[f"weight_hh_l{layer}{suffix}"],
                entries.get(f"bias_ih_l{layer}{suffix}"),
                entries.get(f"bias_hh_l{layer}{suffix}"),
                entries.get(f"weight_hr_l{layer}{suffix}"),
            )
            for direction, suffix in DIRECTIONS.items()
            if f"weight_ih_l{layer}{suffix}" in entries
        }
        for layer in range(num_layers)
    )


def network_weights(state_dict: Mapping[str, Tensor]) -> NetworkWeights:
    """The whole network's weights; `attention.attn.bias` must be present but is never used.

    Raises:
        ValueError: as for `lstm_weights`.
    """
    layers = lstm_weights(state_dict)
    features = sum(weights.state_sizes[0] for weights in layers[-1].values())
    fc_bias = state_dict.get("fc.bias")
    outputs = fc_bias.numel() if fc_bias is not None else 1
    _check(
        {name: value for name, value in state_dict.items() if not name.startswith("lstm.")},
        {
            "attention.attn.weight": (features, features),
            "attention.attn.bias": (features,),
            "fc.weight": (outputs, features),
            "fc.bias": (outputs,),
        },
    )
    fc = state_dict["fc.weight"], state_dict["fc.bias"]
    return NetworkWeights(layers, state_dict["attention.attn.weight"], *fc)


def _layer(name: str) -> int:
    match = ENTRY.fullmatch(name)
    return int(match["layer"]) if match else 0


def _lstm_shapes(entries: Mapping[str, Tensor]) -> Shapes:
    """The names and shapes of an nn.LSTM with the options that the names imply."""
    for name, shape in {
        "weight_ih_l0": "(4·hidden_size, input_size)",
        "weight_hh_l0": "(4·hidden_size, hidden_size or proj_size)",
    }.items():
        if name not in entries or entries[name].ndim != 2:
            got = tuple(entries[name].shape) if name in entries else f"only {sorted(entries)}"
            raise ValueError(
                f"state_dict must hold {name} of shape {shape}, got {got}; "
                "pass the state_dict() of an nn.LSTM, or of a network with one named lstm"
            )
    kinds = {match["kind"] for name in entries if (match := ENTRY.fullmatch(name))}
    both = any(name.endswith("_reverse") for name in entries)
    suffixes = tuple(DIRECTIONS.values()) if both else ("",)
    hidden, inputs = entries["weight_ih_l0"].shape[0] // 4, entries["weight_ih_l0"].shape[1]
    state = entries["weight_hh_l0"].shape[1] if "weight_hr" in kinds else hidden

    shapes: Shapes = {}
    for layer in range(1 + max(map(_layer, entries))):
        for suffix in suffixes:
            end = f"_l{layer}{suffix}"
            shapes["weight_ih" + end] = (4 * hidden, len(suffixes) * state if layer else inputs)
            shapes["weight_hh" + end] = (4 * hidden, state)
            if kinds & {"bias_ih", "bias_hh"}:
                shapes["bias_ih" + end] = shapes["bias_hh" + end] = (4 * hidden,)
            if "weight_hr" in kinds:
                shapes["weight_hr" + end] = (state, hidden)
    return shapes


def _check(entries: Mapping[str, Tensor], shapes: Shapes) -> None:
    """Raise unless there are exactly the expected entries and shapes, all of one floating dtype."""
    problems = [f"missing: {name} {shape}" for name, shape in shapes.items() if name not in entries]
    for name, value in entries.items():
        if name not in shapes:
            problems.append(f"unexpected: {name} {tuple(value.shape)}")
        elif tuple(value.shape) != shapes[name]:
            problems.append(f"{name}: expected shape {shapes[name]}, got {tuple(value.shape)}")
        if not value.is_floating_point():
            problems.append(f"{name}: expected a floating dtype, got {value.dtype}")
    dtypes = {str(value.dtype) for value in entries.values()}
    if len(dtypes) > 1:
        problems.append(f"expected one dtype, got {sorted(dtypes)}; cast the entries to one")
    if problems:
        raise ValueError("state_dict does not fit:\n  " + "\n  ".join(problems))
