"""PyTorch's LSTM, number for number, as a Flax NNX module; and BiLSTM-with-attention upon it."""

from flax_bilstm.cell import LSTMCell
from flax_bilstm.checkpoints import load, save
from flax_bilstm.export import export
from flax_bilstm.lstm import LSTM
from flax_bilstm.network import Attention, BiLSTMWithAttention, Unused
from flax_bilstm.optimizer_state import optimizer_from_torch
from flax_bilstm.state_dict import from_state_dict, load_state_dict, state_dict

__all__ = [
    "LSTM",
    "Attention",
    "BiLSTMWithAttention",
    "LSTMCell",
    "Unused",
    "export",
    "from_state_dict",
    "load",
    "load_state_dict",
    "optimizer_from_torch",
    "save",
    "state_dict",
]
