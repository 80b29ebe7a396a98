"""What the HTML report draws, as plain numbers for JSON: docs/report-schema.md has the form.

Errors over layer × direction × time, the last step's attention, and loss curves, of both sides.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

import flax_bilstm as fb
from parity import nudging
from parity.environment import pinned_precision
from parity.forcing import forced_recurrence
from parity.losses import MEAN_SQUARED_ERROR
from parity.modules import table
from parity.nnx_side import nnx_side
from parity.port import Arrays, Port, cast
from parity.tolerances import DTYPES, TRUTH, bound, epsilon
from parity.torch_side import torch_side

DIRECTIONS = ("forward", "reverse")
SEQUENCES = 8
"""As many of a batch's sequences have their attention drawn."""

Figures = dict[str, list[dict[str, Any]]]


def of_model(
    port: Port, torch_model: torch.nn.Module, flax_model: Any, x: Any, *, case: str
) -> Figures:
    """Errors in float64 and float32 by place and time; the attention where there is one.

    Args:
        port: `bilstm.port` of the two models.
        torch_model: the reference network or an nn.LSTM, batch first.
        flax_model: its counterpart.
        x: (batch, time, features).
        case: how the report calls them.
    """
    loss = MEAN_SQUARED_ERROR  # not descended
    reference = torch_side(torch_model, lambda m, i: _torch_directions(m, i["x"]), loss)
    candidate = nnx_side(
        flax_model, table(flax_model), lambda m, i: _flax_directions(m, i["x"]), loss
    )
    inputs = {"x": x}
    held = (cast(side.parameters, "float32") for side in (reference, candidate))
    layers = Port(reference, candidate).holding(*held)
    with pinned_precision():
        errors = [_errors(layers, inputs, case, dtype) for dtype in DTYPES]
        if not isinstance(flax_model, fb.BiLSTMWithAttention):
            return {"stage_errors": errors}
        return {"stage_errors": errors, "attention": [attention(port, inputs, case)]}


def attention(port: Port, inputs: Arrays, case: str) -> dict[str, Any]:
    """The last step's attention weights of the first sequences, both sides in float32."""
    with pinned_precision():
        theirs, ours = (
            side.forward(side.parameters, inputs, "float32")["attention.weights"][:SEQUENCES]
            for side in (port.reference, port.candidate)
        )
    return {
        "case": case,
        "dtype": "float32",
        "reference": theirs.tolist(),
        "candidate": ours.tolist(),
    }


def loss_curves(
    case: str, loss: str, reference: Sequence[float], candidate: Sequence[float]
) -> dict[str, Any]:
    """The training loss of both sides, a value per step."""
    return {
        "case": case,
        "loss": loss,
        "reference": list(reference),
        "candidate": list(candidate),
    }


def _errors(port: Port, inputs: Arrays, case: str, dtype: str) -> dict[str, Any]:
    """Per place the largest error of every time step, in ULP of the place's scale."""
    theirs, ours = port.reference, port.candidate
    truth = theirs.forward(theirs.parameters, inputs, TRUTH)
    own = [side.forward(side.parameters, inputs, dtype) for side in nudging.runs(theirs, dtype)]
    given = ours.forward(ours.parameters, inputs, dtype)
    stages = []
    for name, expected in truth.items():
        scale = float(np.abs(expected).max())
        ulp = epsilon(dtype) * scale or 1.0

        def by_step(run: Arrays, name: str = name, ulp: float = ulp) -> np.ndarray:
            return np.abs(run[name] - truth[name]).max(axis=(0, 2)) / ulp

        spread = max(float(by_step(run).max()) for run in own)
        layer, direction = name.split(".")
        stages.append(
            {
                "layer": int(layer),
                "direction": direction,
                "bound": bound(dtype, spread * ulp, scale) / ulp,
                "reference": by_step(own[0]).tolist(),
                "candidate": by_step(given).tolist(),
            }
        )
    return {"case": case, "dtype": dtype, "stages": stages}


def _torch_directions(model: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every layer's and direction's outputs: each layer run as an nn.LSTM of its own."""
    lstm = model if isinstance(model, torch.nn.LSTM) else model.get_submodule("lstm")
    options = {name: getattr(lstm, name) for name in ("bias", "bidirectional", "proj_size")}
    found = {}
    for k in range(lstm.num_layers):
        layer = torch.nn.LSTM(x.shape[-1], lstm.hidden_size, batch_first=True, **options)
        own = {
            re.sub(r"_l\d+", "_l0", name): tensor
            for name, tensor in lstm.state_dict().items()
            if re.search(rf"_l{k}(_reverse)?$", name)
        }
        layer.to(x).load_state_dict(own)
        x, _ = layer(x)
        parts = x.chunk(2, dim=-1) if lstm.bidirectional else (x,)
        found.update({f"{k}.{n}": part for n, part in zip(DIRECTIONS, parts, strict=False)})
    return found


def _flax_directions(model: Any, x: Any) -> dict[str, Any]:
    """The same as the Flax model runs them."""
    lstm = getattr(model, "lstm", model)
    found: dict[str, Any] = {}

    def run(*args: Any) -> Any:
        outputs, final = real(*args)  # (time, batch, features)
        layer, direction = divmod(len(found), lstm.num_directions)
        found[f"{layer}.{DIRECTIONS[direction]}"] = outputs.swapaxes(0, 1)
        return outputs, final

    with forced_recurrence(lstm.implementation, run) as real:
        lstm(x)
    return found
