"""The reference network in PyTorch: as PyTorch users write it, and unrolled step by step."""

from torch_ref import unrolled
from torch_ref.model import Attention, BiLSTMWithAttention

__all__ = ["Attention", "BiLSTMWithAttention", "unrolled"]
