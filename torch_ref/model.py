"""The reference network as PyTorch users write it.

x (batch, time, input_dim)
  → LSTM, both directions     y (batch, time, 2·hidden_dim)
  → softmax(y yᵀ) y           a (batch, time, 2·hidden_dim)   no scale, no mask, no projection
  → fc(a[:, -1])                (batch, output_dim)
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

SCORES = ("dot", "general")


class Attention(nn.Module):
    """Self-attention over the time steps of a sequence: every step is a query and a key.

    Args:
        hidden_dim: features per time step.
        score: how the score of a query and a key is computed (Luong et al. 2015, section 3.1).
            "dot", the reference's: queryᵀ key. `attn` is never used, so its gradients are None
            and optimizers do not change it; every checkpoint contains it nevertheless.
            "general": queryᵀ W key with W = attn.weight. `attn.bias` is not used, and its gradient
            is None: it would add one number to all scores of a query, which the softmax cancels.

    Raises:
        ValueError: for any other score.
    """

    def __init__(self, hidden_dim: int, score: str = "dot") -> None:
        super().__init__()
        if score not in SCORES:
            raise ValueError(f"score must be one of {SCORES}, got {score!r}")
        self.score = score
        self.attn = nn.Linear(hidden_dim, hidden_dim)

    def forward(
        self, hidden_states: Float[Tensor, "batch time hidden_dim"]
    ) -> Float[Tensor, "batch time hidden_dim"]:
        """Each step's context: the hidden states' mean, weighted by that step's attention."""
        keys = hidden_states
        if self.score == "general":
            keys = nn.functional.linear(hidden_states, self.attn.weight)
        scores = torch.bmm(hidden_states, keys.transpose(1, 2))  # (batch, query, key)
        weights = torch.softmax(scores, dim=-1)
        return torch.bmm(weights, hidden_states)


class BiLSTMWithAttention(nn.Module):
    """Bidirectional LSTM, self-attention, and a dense head on the last time step.

    Args:
        input_dim: features per time step of the input.
        hidden_dim: features of the LSTM's state, per direction.
        output_dim: outputs of the head.
        score: the attention's score, see `Attention`. The default is the reference's.
    """

    def __init__(
        self, input_dim: int, hidden_dim: int, output_dim: int, score: str = "dot"
    ) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_dim, hidden_dim, batch_first=True, bidirectional=True)
        self.attention = Attention(hidden_dim * 2, score)
        self.fc = nn.Linear(hidden_dim * 2, output_dim)

    def forward(
        self, x: Float[Tensor, "batch time input_dim"]
    ) -> Float[Tensor, "batch output_dim"]:
        """The head's output for each sequence, from its last step's context."""
        lstm_out, _ = self.lstm(x)  # (batch, time, 2·hidden_dim)
        attn_out = self.attention(lstm_out)  # (batch, time, 2·hidden_dim)
        return self.fc(attn_out[:, -1, :])
