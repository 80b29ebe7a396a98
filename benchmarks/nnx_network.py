"""The reference network as a user of flax.nnx writes it: Bidirectional RNNs over its own cell."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Network(nnx.Module):
    """LSTM both ways, softmax(y yᵀ) y, dense on the last step."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, *, rngs: nnx.Rngs):
        def rnn() -> nnx.RNN:
            return nnx.RNN(nnx.OptimizedLSTMCell(input_dim, hidden_dim, rngs=rngs), rngs=rngs)

        self.lstm = nnx.Bidirectional(rnn(), rnn(), rngs=rngs)
        self.fc = nnx.Linear(2 * hidden_dim, output_dim, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, time, input_dim) → (batch, output_dim)."""
        y = self.lstm(x)  # (batch, time, 2·hidden_dim)
        weights = jax.nn.softmax(jnp.einsum("bqf,btf->bqt", y, y), axis=-1)
        return self.fc(jnp.einsum("bqt,btf->bqf", weights, y)[:, -1])


def from_state_dict(weights: dict[str, np.ndarray]) -> Any:
    """The network with torch's weights; flax's cell has one bias, so torch's two are summed."""
    gates, input_dim = weights["lstm.weight_ih_l0"].shape
    model: Any = Network(input_dim, gates // 4, len(weights["fc.bias"]), rngs=nnx.Rngs(0))
    for suffix, rnn in (("", model.lstm.forward_rnn), ("_reverse", model.lstm.backward_rnn)):
        bias = weights[f"lstm.bias_ih_l0{suffix}"] + weights[f"lstm.bias_hh_l0{suffix}"]
        rnn.cell.dense_i.kernel[...] = jnp.asarray(weights[f"lstm.weight_ih_l0{suffix}"].T)
        rnn.cell.dense_h.kernel[...] = jnp.asarray(weights[f"lstm.weight_hh_l0{suffix}"].T)
        rnn.cell.dense_h.bias[...] = jnp.asarray(bias)
    model.fc.kernel[...] = jnp.asarray(weights["fc.weight"].T)
    model.fc.bias[...] = jnp.asarray(weights["fc.bias"])
    return model
