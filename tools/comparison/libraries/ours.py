"""This library."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tools.comparison.libraries.library import Library, Outcome, Weights, between_layers


class Ours(Library):
    """flax_bilstm.LSTM."""

    package = "flax_bilstm"
    module = "flax_bilstm"

    def __init__(self, implementation: str | None = None):
        self.implementation = implementation

    def params(self, weights: Weights, dtype: Any = None) -> Any:
        from flax import nnx

        import flax_bilstm as fb

        module = fb.from_state_dict(weights, dtype=dtype, implementation=self.implementation)
        self.graphdef, state = nnx.split(module)
        return state

    def apply(self, params: Any, x: Any, **options: Any) -> Outcome:
        from flax import nnx

        module = nnx.merge(self.graphdef, params)
        module.time_major = options.get("time_major", False)
        return module(x, options.get("initial_state"), options.get("lengths"))

    def initial(self, features: int, hidden: int) -> list[np.ndarray]:
        from flax import nnx

        import flax_bilstm as fb

        return jax.tree.leaves(nnx.state(fb.LSTM(features, hidden, rngs=nnx.Rngs(0))))

    def dropout(self) -> str:
        from flax import nnx

        import flax_bilstm as fb

        def spread(layers: int) -> float:
            lstm = fb.LSTM(2, 8, num_layers=layers, dropout=0.5, rngs=nnx.Rngs(0))
            return float(jnp.abs(lstm(jnp.ones((4, 2)))[0] - lstm(jnp.ones((4, 2)))[0]).max())

        return between_layers(spread)

    def tangent(self, weights: Weights, x: np.ndarray) -> np.ndarray:
        if self.implementation is None:
            return Ours("scan").tangent(weights, x)
        return super().tangent(weights, x)
