"""Haiku: its core and its unroll."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tools.comparison.libraries.library import (
    Library,
    Outcome,
    Weights,
    directions,
    lacks,
    reordered,
)


class Haiku(Library):
    """hk.LSTM, hk.DeepRNN and hk.dynamic_unroll."""

    package = "dm-haiku"
    module = "haiku"
    gates = "igfo"

    def params(self, weights: Weights, dtype: Any = None) -> Any:
        import haiku as hk

        if "weight_hr_l0" in weights:
            lacks("projection", ["proj_size", "projection", "num_proj"], hk.LSTM)
        if "weight_ih_l0_reverse" in weights:
            lacks("bidirectional", ["Bidirectional", "BiLSTM", "BidirectionalRNN"], hk)
        self.layers = sum(name.startswith("weight_ih") for name in weights)
        self.hidden = weights["weight_hh_l0"].shape[1]
        params = {}
        for k in range(self.layers):
            ((weight_ih, weight_hh, bias),) = directions(weights, k)
            kernel = np.concatenate(
                [reordered(w, self.gates) for w in (weight_ih, weight_hh)], axis=1
            )
            bias = reordered(
                bias - np.repeat([0, 1, 0, 0], self.hidden), self.gates
            )  # Haiku adds 1 to f
            name = f"{'lstm' if k == 0 else f'lstm_{k}'}/linear"
            params[name] = {"w": jnp.asarray(kernel.T), "b": jnp.asarray(bias)}
        if dtype is not None:  # there is no compute dtype: cast the parameters
            params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        return params

    def apply(self, params: Any, x: Any, **options: Any) -> Outcome:
        import haiku as hk

        if options.get("lengths") is not None:
            names = ["lengths", "sequence_length", "sequence_lengths", "mask"]
            lacks("lengths", names, hk.dynamic_unroll, hk.static_unroll, hk.LSTM)
        x = jnp.asarray(x, jax.tree.leaves(params)[0].dtype)
        unbatched = options.get("unbatched", False)
        time_major = options.get("time_major", unbatched)

        def run(x: jax.Array) -> Any:
            core = hk.DeepRNN([hk.LSTM(self.hidden) for _ in range(self.layers)])
            batch = None if unbatched else x.shape[1 if time_major else 0]
            state = jax.tree.map(lambda leaf: leaf.astype(x.dtype), core.initial_state(batch))
            if options.get("initial_state") is not None:
                pairs = zip(*map(jnp.asarray, options["initial_state"]), strict=True)
                state = tuple(hk.LSTMState(h, c) for h, c in pairs)
            return hk.dynamic_unroll(core, x, state, time_major=time_major)

        outputs, states = hk.transform(run).apply(params, None, x)
        h_n, c_n = (jnp.stack(leaves) for leaves in zip(*states, strict=True))
        return outputs, (h_n, c_n)

    def initial(self, features: int, hidden: int) -> list[np.ndarray]:
        import haiku as hk

        def run(x: jax.Array) -> Any:
            return hk.LSTM(hidden)(x, hk.LSTM(hidden).initial_state(None))

        return jax.tree.leaves(hk.transform(run).init(jax.random.key(0), jnp.ones(features)))

    def dropout(self) -> str:
        import haiku as hk

        lacks("dropout", ["dropout", "rate"], hk.LSTM, hk.DeepRNN, hk.dynamic_unroll)
