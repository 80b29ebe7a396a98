"""The network, and the plain LSTM, as ports: which stages they have and where those come from.

Stages are taken from the models as they run, none is computed a second time: in PyTorch by
forward hooks on the modules, and by watching for the softmax, which is no module; in Flax by
recording what the submodules return.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.overrides import TorchFunctionMode

import flax_bilstm as fb
from parity.bilstm_candidate import last_query
from parity.bilstm_stages import anatomy
from parity.losses import MEAN_SQUARED_ERROR, Loss
from parity.modules import table
from parity.nnx_side import nnx_side, recording
from parity.port import Port
from parity.torch_side import torch_side


def port(
    torch_model: torch.nn.Module,
    flax_model: fb.BiLSTMWithAttention | fb.LSTM,
    loss: Loss = MEAN_SQUARED_ERROR,
) -> Port:
    """The port that claims flax_model to be torch_model.

    Args:
        torch_model: any module with `lstm`, `attention` and `fc` as the reference network has
            them for a `BiLSTMWithAttention`, a `torch.nn.LSTM` for an `LSTM`.
        flax_model: either of the two.
        loss: what gradients and training descend.

    Raises:
        TypeError: flax_model is none of these, or torch_model is not its counterpart.
    """
    if isinstance(flax_model, fb.LSTM):
        stages: tuple[Any, Any] = torch_lstm, flax_lstm
        fits = isinstance(torch_model, torch.nn.LSTM)
        expected = "a torch.nn.LSTM"
    elif isinstance(flax_model, fb.BiLSTMWithAttention):
        stages = torch_network, flax_network
        children = dict(torch_model.named_children()) if _is_module(torch_model) else {}
        fits = isinstance(children.get("lstm"), torch.nn.LSTM) and "fc" in children
        expected = "a module with an nn.LSTM `lstm` and a head `fc`"
    else:
        raise TypeError(
            "flax_model: expected flax_bilstm.BiLSTMWithAttention or flax_bilstm.LSTM, got "
            f"{type(flax_model).__name__}; describe other models with parity.Port"
        )
    if not fits:
        raise TypeError(f"torch_model: expected {expected}, got {type(torch_model).__name__}")
    return Port(
        torch_side(torch_model, stages[0], loss),
        nnx_side(flax_model, table(flax_model), stages[1], loss),
        partial(anatomy, torch_model, flax_model, loss),
        loss.name,
    )


def torch_network(
    model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The stages of the reference network, x (batch, time, input_dim).

    With lengths (batch,) every sequence is run alone, unpadded; its stages are padded with zeros.
    """
    if "lengths" not in inputs:
        return _torch_network(model, inputs["x"])
    x = inputs["x"]
    alone = [
        _torch_network(model, x[i : i + 1, : int(length)])
        for i, length in enumerate(inputs["lengths"])
    ]
    return {name: _together([one[name] for one in alone], name, x.shape[1]) for name in alone[0]}


def _together(values: list[torch.Tensor], name: str, time: int) -> torch.Tensor:
    """One stage of sequences that were run one by one, as a batch."""
    if name in ("lstm.h_n", "lstm.c_n"):
        return torch.cat(values, dim=1)
    if name.startswith("lstm.output.") or name == "attention.weights":
        rest = [0, 0] * (values[0].ndim - 2)
        pad = torch.nn.functional.pad
        values = [pad(value, (*rest, 0, time - value.shape[1])) for value in values]
    return torch.cat(values)


def _torch_network(model: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    seen: dict[str, Any] = {}
    lstm, fc = model.get_submodule("lstm"), model.get_submodule("fc")
    hooks = [
        lstm.register_forward_hook(lambda m, args, output: seen.update(lstm=output)),
        fc.register_forward_hook(lambda m, args, output: seen.update(context=args[0])),
    ]
    try:
        with _WatchSoftmax() as softmax:
            output = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    y, (h_n, c_n) = seen["lstm"]  # (batch, time, 2·hidden_dim)
    stages = {**_by_direction(y, 2), "lstm.h_n": h_n, "lstm.c_n": c_n}
    if softmax.weights:
        stages["attention.weights"] = softmax.weights[-1][:, -1]  # the last query's: (batch, time)
    return {**stages, "attention.context": seen["context"], "output": output}


def flax_network(
    model: fb.BiLSTMWithAttention, inputs: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """The same stages of the Flax network."""
    with recording(model.lstm, model.attention) as (lstm, attention):
        output = model(inputs["x"], lengths=inputs.get("lengths"))
    ((y, (h_n, c_n)),) = lstm
    context, weights = last_query(attention, inputs.get("lengths"))
    return {
        **_by_direction(y, 2),
        "lstm.h_n": h_n,
        "lstm.c_n": c_n,
        "attention.weights": weights,
        "attention.context": context,
        "output": output,
    }


def torch_lstm(model: torch.nn.LSTM, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The stages of a plain LSTM; the loss descends outputs and final states together."""
    state = (inputs["h_0"], inputs["c_0"]) if "h_0" in inputs else None
    x, lengths = inputs["x"], inputs.get("lengths")
    if lengths is None:
        y, (h_n, c_n) = model(x, state)
    else:
        first = model.batch_first
        packed = pack_padded_sequence(x, lengths.cpu(), first, enforce_sorted=False)
        y, (h_n, c_n) = model(packed, state)
        y, _ = pad_packed_sequence(y, first, total_length=x.shape[1 if first else 0])
    everything = torch.cat([y.flatten(), h_n.flatten(), c_n.flatten()])
    directions = 2 if model.bidirectional else 1
    return {**_by_direction(y, directions), "h_n": h_n, "c_n": c_n, "everything": everything}


def flax_lstm(model: fb.LSTM, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The same stages of the Flax LSTM."""
    state = (inputs["h_0"], inputs["c_0"]) if "h_0" in inputs else None
    y, (h_n, c_n) = model(inputs["x"], initial_state=state, lengths=inputs.get("lengths"))
    everything = jnp.concatenate([y.ravel(), h_n.ravel(), c_n.ravel()])
    stages = _by_direction(y, model.num_directions)
    return {**stages, "h_n": h_n, "c_n": c_n, "everything": everything}


def _by_direction(y: Any, directions: int) -> dict[str, Any]:
    """The LSTM's output split at the middle of its last axis."""
    features = y.shape[-1] // directions
    return {
        f"lstm.output.{name}": y[..., i * features : (i + 1) * features]
        for i, name in enumerate(("forward", "reverse")[:directions])
    }


def _is_module(model: object) -> bool:
    return isinstance(model, torch.nn.Module)


class _WatchSoftmax(TorchFunctionMode):
    """Keeps what every softmax returns that torch computes under it, however it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[torch.Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") == "softmax":
            self.weights.append(result)
        return result
