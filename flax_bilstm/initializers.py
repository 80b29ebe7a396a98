"""PyTorch's default initial distributions, as Flax initializers.

`torch.nn.LSTM` draws every weight and bias from U(-1/√H, 1/√H), H the hidden size;
`torch.nn.Linear` draws weight and bias from U(-1/√in, 1/√in). See `reset_parameters` in
https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html and `...torch.nn.Linear.html`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Initializer


def symmetric_uniform(features: int) -> Initializer:
    """U(-1/√features, 1/√features): features is hidden_size for LSTM, in_features for Linear."""
    bound = 1.0 / math.sqrt(features)

    def initialize(key: Any, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialize


def same_key() -> nnx.Rngs:
    """One key for all parameters: for `nnx.eval_shape`, where nothing is drawn.

    To count the keys takes time there that is quadratic in the number of parameters.
    """
    rngs: Any = nnx.Rngs(0)
    key = jax.random.key(0)
    rngs.params = lambda: key
    return rngs
