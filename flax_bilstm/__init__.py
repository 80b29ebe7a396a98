"""PyTorch's LSTM as a Flax NNX module, with the same numbers; and BiLSTM with attention."""

from flax_bilstm import linen, sharding
from flax_bilstm.cell import LSTMCell
from flax_bilstm.checkpoints import load, save
from flax_bilstm.conversion.flax_cells import SummedBiases
from flax_bilstm.conversion.layers import register_layer
from flax_bilstm.conversion.optimizer import optimizer_from_torch
from flax_bilstm.conversion.weights import from_state_dict, load_state_dict, state_dict
from flax_bilstm.lstm import LSTM
from flax_bilstm.network import Attention, BiLSTMWithAttention, Unused
from flax_bilstm.recurrence.native.library import native_available
from flax_bilstm.stablehlo import export

__all__ = [
    "LSTM",
    "Attention",
    "BiLSTMWithAttention",
    "LSTMCell",
    "SummedBiases",
    "Unused",
    "export",
    "from_state_dict",
    "linen",
    "load",
    "load_state_dict",
    "native_available",
    "optimizer_from_torch",
    "register_layer",
    "save",
    "sharding",
    "state_dict",
]
