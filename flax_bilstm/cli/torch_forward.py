"""A state dict's forward pass in PyTorch's modules, for judging a conversion."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64

from flax_bilstm.checkpoints.mapped import forget
from flax_bilstm.cli.parts import parts
from flax_bilstm.conversion.reading import read_sizes
from flax_bilstm.lstm import LSTM


def torch_forward(
    arrays: Mapping[str, np.ndarray],
    x: Float64[np.ndarray, "batch time features"],
    score: str = "dot",
) -> Float64[np.ndarray, "batch ..."]:
    """What PyTorch computes from x with these weights, all in float64 on the CPU.

    An `nn.LSTM`'s output (batch, time, directions·out), or the network's (batch, output_dim):
    nn.LSTM, attention softmax(y yᵀ) y, or softmax(y (y Wᵀ)ᵀ) y for the general score, and the dense
    head on the last step. The weights of one layer are in memory at a time.

    Raises:
        ImportError: PyTorch is not installed.
    """
    remaining = parts(arrays)
    del arrays
    for part in remaining:
        x = _run(part, x, score)
    return x


def _run(arrays: dict[str, np.ndarray], x: np.ndarray, score: str) -> np.ndarray:
    """An nn.LSTM of one layer, or the network. Takes the arrays out of the dict."""
    import torch

    kind, sizes = read_sizes(arrays)
    weights = {}
    while arrays:
        name, array = arrays.popitem()
        weights[name] = torch.from_numpy(array.astype(np.float64))
        forget({name: array})
        del array
    prefix = "" if kind is LSTM else "lstm."
    recurrent: dict[str, Any] = {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(f"{prefix}weight_") or name.startswith(f"{prefix}bias_")
    }
    if kind is not LSTM:
        sizes = {
            "input_size": sizes["input_dim"],
            "hidden_size": sizes["hidden_dim"],
            "bidirectional": True,
        }
    lstm = torch.nn.LSTM(**sizes, batch_first=True, dtype=torch.float64, device="meta")
    lstm.load_state_dict(recurrent, strict=True, assign=True)  # without a second copy
    with torch.no_grad():
        y, _ = lstm(torch.from_numpy(x))  # (batch, time, directions·out)
        if kind is LSTM:
            return y.numpy()
        keys = y
        if score == "general":
            keys = torch.nn.functional.linear(y, weights["attention.attn.weight"])
        attention = torch.softmax(torch.bmm(y, keys.transpose(1, 2)), dim=-1)
        context = torch.bmm(attention, y)
        head = torch.nn.functional.linear(context, weights["fc.weight"], weights["fc.bias"])
        return head[:, -1].numpy()
