"""Keras: its layer, on the JAX backend."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tools.comparison.libraries.library import (
    LacksError,
    Library,
    Outcome,
    Weights,
    directions,
    lacks,
)

os.environ["KERAS_BACKEND"] = "jax"


def _tanh(x: jax.Array) -> jax.Array:
    return jnp.tanh(x)


class Keras(Library):
    """keras.layers.LSTM, Bidirectional and StackedRNNCells, on the JAX backend.

    Its "tanh" rounds float64 to float32 there. `activation` replaces it by JAX's tanh, so that the
    other entries can be judged; `as_shipped` has Keras's tanh.
    """

    package = "keras"
    module = "keras.layers"

    def __init__(self, activation: Any = None):
        self.activation = activation or _tanh

    def as_shipped(self) -> "Keras":
        return Keras("tanh")

    def params(self, weights: Weights, dtype: Any = None) -> Any:
        from keras import layers

        if "weight_hr_l0" in weights:
            lacks("projection", ["proj_size", "projection", "num_proj"], layers.LSTM)
        hidden = weights["weight_hh_l0"].shape[1]
        stacked, both = "weight_ih_l1" in weights, "weight_ih_l0_reverse" in weights
        if dtype is not None:
            dtype = f"mixed_{dtype}"
        options: dict[str, Any] = {
            "return_sequences": True,
            "return_state": True,
            "zero_output_for_mask": True,
            "dtype": dtype or str(weights["weight_ih_l0"].dtype),
        }
        if stacked and both:
            raise LacksError(
                "StackedRNNCells run each direction through all layers: other equations"
            )
        if stacked:
            cell = {"activation": self.activation, "dtype": options["dtype"]}
            cells = [layers.LSTMCell(hidden, **cell) for _ in range(2)]
            stack = layers.StackedRNNCells(cells, dtype=options["dtype"])
            self.layer = layers.RNN(stack, **options)
        else:
            self.layer = layers.LSTM(hidden, activation=self.activation, **options)
        if both:
            from keras import saving

            with saving.custom_object_scope({"_tanh": _tanh}):
                self.layer = layers.Bidirectional(self.layer, dtype=options["dtype"])
        self.layer.build((None, None, weights["weight_ih_l0"].shape[1]))
        params = []
        for k in range(2 if stacked else 1):
            for weight_ih, weight_hh, bias in directions(weights, k):
                params += [weight_ih.T, weight_hh.T, bias]  # gates in torch's order
        return [jnp.asarray(array) for array in params]

    def apply(self, params: Any, x: Any, **options: Any) -> Outcome:
        from keras import layers

        if options.get("time_major"):
            lacks("time_major", ["time_major"], layers.RNN, layers.LSTM)
        if options.get("unbatched"):
            try:
                self.layer(x)
            except ValueError as error:
                raise LacksError("a sequence without a batch axis") from error
        x = jnp.asarray(x)
        both = isinstance(self.layer, layers.Bidirectional)
        given: dict[str, Any] = {}
        if options.get("lengths") is not None:
            lengths = jnp.asarray(options["lengths"])
            given["mask"] = jnp.arange(x.shape[1])[None, :] < lengths[:, None]
        if options.get("initial_state") is not None:
            h_0, c_0 = (jnp.asarray(state) for state in options["initial_state"])
            pairs = [[h, c] for h, c in zip(h_0, c_0, strict=True)]
            given["initial_state"] = (
                [s for pair in pairs for s in pair] if both or len(pairs) == 1 else pairs
            )
        rest = [variable.value for variable in self.layer.non_trainable_variables]
        (outputs, *states), _ = self.layer.stateless_call(params, rest, x, **given)
        states = jax.tree.leaves(states)
        return outputs, (jnp.stack(states[0::2]), jnp.stack(states[1::2]))

    def initial(self, features: int, hidden: int) -> list[np.ndarray]:
        from keras import layers

        layer = layers.LSTM(hidden)
        layer.build((None, None, features))
        return [np.asarray(variable.value) for variable in layer.trainable_variables]

    def dropout(self) -> str:
        from keras import layers

        layer = layers.LSTM(8, dropout=0.5, return_sequences=True)
        x = jnp.ones((4, 4, 64))
        spread = float(jnp.abs(layer(x, training=True) - layer(x, training=True)).max())
        assert spread > 0  # even one layer has a mask
        return "on every layer's input"
