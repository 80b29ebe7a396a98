"""The numbers that the HTML report draws for this package's models: see docs/report-schema.md.

Errors over layer × direction × time, and the last step's attention, of both sides.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
from torch.overrides import TorchFunctionMode

import flax_bilstm as fb
from flax_bilstm import recurrence
from flax_bilstm.conversion.rows import rows as rows_of
from parity import nudging
from parity.environment import pinned_precision
from parity.sides.nnx_side import NnxSide
from parity.sides.side import Arrays, Pair, cast
from parity.sides.torch_side import TorchSide
from parity.tolerances import DTYPES, TRUTH, bound, epsilon
from torch_ref.weights import DIRECTIONS

SEQUENCES = 8
"""The number of a batch's sequences whose attention is drawn."""


def stage_errors(
    torch_lstm: torch.nn.LSTM, flax_lstm: fb.LSTM, x: np.ndarray, case: str
) -> list[dict[str, Any]]:
    """Errors in float64 and float32 by place and time.

    Args:
        torch_lstm: the reference, batch first.
        flax_lstm: its counterpart.
        x: (batch, time, features).
        case: their name in the report.
    """
    reference = TorchSide(torch_lstm, _torch_directions)
    candidate = NnxSide(flax_lstm, rows_of(flax_lstm), _flax_directions)
    held = (cast(side.parameters, "float32") for side in (reference, candidate))
    pair, places = Pair(reference, candidate).holding(*held), _places(torch_lstm)
    with pinned_precision():
        return [_errors(pair, places, {"x": x}, case, dtype) for dtype in DTYPES]


def attention(
    torch_model: torch.nn.Module, flax_model: fb.BiLSTMWithAttention, x: np.ndarray, case: str
) -> dict[str, Any]:
    """The last step's attention weights of the first sequences, both sides in float32."""
    with pinned_precision(), _WatchSoftmax() as softmax, torch.no_grad():
        torch_model(torch.from_numpy(x[:SEQUENCES]))
        _, ours = jax.jit(partial(flax_model, return_attention=True))(x[:SEQUENCES])
    theirs = softmax.weights[-1][:, -1]
    return {
        "case": case,
        "dtype": "float32",
        "reference": theirs.tolist(),
        "candidate": np.asarray(ours).tolist(),
    }


def _errors(
    pair: Pair, places: Mapping[str, tuple[int, str]], inputs: Arrays, case: str, dtype: str
) -> dict[str, Any]:
    """The largest error of every time step for each place, in ULP of the place's scale."""
    theirs, ours = pair.reference, pair.candidate
    truth = theirs.forward(theirs.parameters, inputs, TRUTH)
    own = [side.forward(side.parameters, inputs, dtype) for side in nudging.runs(theirs, dtype)]
    given = ours.forward(ours.parameters, inputs, dtype)
    stages = []
    for (layer, direction), (name, expected) in zip(places.values(), truth.items(), strict=True):
        scale = float(np.abs(expected).max())
        ulp = epsilon(dtype) * scale or 1.0

        def by_step(run: Arrays, name: str = name, ulp: float = ulp) -> np.ndarray:
            return np.abs(run[name] - truth[name]).max(axis=(0, 2)) / ulp

        spread = max(float(by_step(run).max()) for run in own)
        stages.append(
            {
                "layer": layer,
                "direction": direction,
                "bound": bound(dtype, spread * ulp, scale) / ulp,
                "reference": by_step(own[0]).tolist(),
                "candidate": by_step(given).tolist(),
            }
        )
    return {"case": case, "dtype": dtype, "stages": stages}


def _places(lstm: Any) -> dict[str, tuple[int, str]]:
    """The name, layer and direction of every part, in order of computation."""
    directions = list(DIRECTIONS)[: 1 + lstm.bidirectional]
    return {f"{k}.{name}": (k, name) for k in range(lstm.num_layers) for name in directions}


def _torch_directions(lstm: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every layer's and direction's outputs, with each layer run as a separate nn.LSTM."""
    x = inputs["x"]
    options = {name: getattr(lstm, name) for name in ("bias", "bidirectional", "proj_size")}
    found: list[torch.Tensor] = []
    for k in range(lstm.num_layers):
        layer = torch.nn.LSTM(x.shape[-1], lstm.hidden_size, batch_first=True, **options)
        own = {
            re.sub(r"_l\d+", "_l0", name): tensor
            for name, tensor in lstm.state_dict().items()
            if re.search(rf"_l{k}(_reverse)?$", name)
        }
        layer.to(x).load_state_dict(own)
        x, _ = layer(x)
        found += x.chunk(2, dim=-1) if lstm.bidirectional else (x,)
    return dict(zip(_places(lstm), found, strict=True))


def _flax_directions(lstm: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The same outputs, as the Flax LSTM computes them."""
    found: list[Any] = []
    real = recurrence.resolve(lstm.implementation)

    def run(*args: Any) -> Any:
        outputs, final = real(*args)  # (time, batch, features)
        found.append(outputs.swapaxes(0, 1))
        return outputs, final

    lstm.implementation = run  # of a copy
    lstm(inputs["x"])
    return dict(zip(_places(lstm), found, strict=True))


class _WatchSoftmax(TorchFunctionMode):
    """Keeps the result of every softmax that torch computes, however it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[torch.Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") == "softmax":
            self.weights.append(result)
        return result
