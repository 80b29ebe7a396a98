"""Equinox: its cell, in a loop that the adapter adds."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tools.comparison.libraries.library import Library, Outcome, Weights, directions, lacks


class Equinox(Library):
    """eqx.nn.LSTMCell in a jax.lax.scan of the adapter: Equinox has no loop over time."""

    package = "equinox"
    module = "equinox.nn"

    def params(self, weights: Weights, dtype: Any = None) -> Any:
        import equinox as eqx

        if "weight_hr_l0" in weights:
            lacks("projection", ["proj_size", "projection", "num_proj"], eqx.nn.LSTMCell)
        if "weight_ih_l1" in weights:
            lacks("num_layers", ["num_layers", "RNN", "LSTM", "StackedRNN"], eqx.nn)
        if "weight_ih_l0_reverse" in weights:
            lacks("bidirectional", ["Bidirectional", "RNN", "LSTM", "BiLSTM"], eqx.nn)
        ((weight_ih, weight_hh, bias),) = directions(weights, 0)
        cell = eqx.nn.LSTMCell(weight_ih.shape[1], weight_hh.shape[1], key=jax.random.key(0))
        cell = eqx.tree_at(
            lambda cell: (cell.weight_ih, cell.weight_hh, cell.bias),
            cell,
            tuple(map(jnp.asarray, (weight_ih, weight_hh, bias))),
        )
        if dtype is not None:  # there is no compute dtype: cast the cell
            cell = jax.tree.map(lambda leaf: leaf.astype(dtype), cell)
        return cell

    def apply(self, params: Any, x: Any, **options: Any) -> Outcome:
        import equinox as eqx

        if set(options) & {"initial_state", "lengths", "batch_major", "time_major", "unbatched"}:
            lacks("a loop over time", ["RNN", "LSTM", "Scan", "dynamic_unroll"], eqx.nn)
        x = jnp.asarray(x, params.weight_ih.dtype)

        def one(sequence: jax.Array) -> Any:
            def step(state: Any, x_t: jax.Array) -> Any:
                state = params(x_t, state)
                return state, state[0]

            zeros = jnp.zeros(params.hidden_size, x.dtype)
            return jax.lax.scan(step, (zeros, zeros), sequence)

        (h_n, c_n), outputs = jax.vmap(one)(x)
        return outputs, (h_n[None], c_n[None])

    def initial(self, features: int, hidden: int) -> list[np.ndarray]:
        import equinox as eqx

        return jax.tree.leaves(eqx.nn.LSTMCell(features, hidden, key=jax.random.key(0)))

    def dropout(self) -> str:
        import equinox as eqx

        lacks("dropout", ["dropout", "p", "rate"], eqx.nn.LSTMCell)
