"""Flax NNX: its runners over its cell."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tools.comparison.libraries.library import Library, Outcome, Weights, directions, lacks


class FlaxNNX(Library):
    """flax.nnx.RNN and nnx.Bidirectional over nnx.OptimizedLSTMCell."""

    package = "flax"
    module = "flax.nnx"

    def params(self, weights: Weights, dtype: Any = None) -> Any:
        from flax import nnx

        if "weight_ih_l1" in weights:
            lacks("num_layers", ["num_layers", "layers"], nnx.RNN, nnx.OptimizedLSTMCell)
        if "weight_hr_l0" in weights:
            names = ["proj_size", "projection", "num_proj"]
            lacks("projection", names, nnx.RNN, nnx.OptimizedLSTMCell, nnx.LSTMCell)
        rnns = []
        for weight_ih, weight_hh, bias in directions(weights, 0):
            cell: Any = nnx.OptimizedLSTMCell(
                weight_ih.shape[1],
                weight_hh.shape[1],
                dtype=dtype,
                param_dtype=weight_ih.dtype,
                rngs=nnx.Rngs(0),
            )
            cell.dense_i.kernel[...] = jnp.asarray(weight_ih.T)
            cell.dense_h.kernel[...] = jnp.asarray(weight_hh.T)
            cell.dense_h.bias[...] = jnp.asarray(bias)
            rnns.append(nnx.RNN(cell, rngs=False))
        runner = nnx.Bidirectional(*rnns, rngs=False) if len(rnns) == 2 else rnns[0]
        split: Any = nnx.split(runner, nnx.Param, ...)
        self.graphdef, params, self.rest = split
        return params

    def apply(self, params: Any, x: Any, **options: Any) -> Outcome:
        from flax import nnx

        runner = nnx.merge(self.graphdef, params, self.rest, copy=True)
        both = isinstance(runner, nnx.Bidirectional)
        carry = None
        if options.get("initial_state") is not None:
            h_0, c_0 = options["initial_state"]
            carries = tuple(zip(c_0, h_0, strict=True))
            carry = carries if both else carries[0]
        final, outputs = runner(
            jnp.asarray(x),
            initial_carry=carry,
            seq_lengths=options.get("lengths"),
            time_major=options.get("time_major", False),
            return_carry=True,
            rngs=nnx.Rngs(0),
        )
        cells, hiddens = zip(*(final if both else [final]), strict=True)
        return outputs, (jnp.stack(hiddens), jnp.stack(cells))

    def initial(self, features: int, hidden: int) -> list[np.ndarray]:
        from flax import nnx

        cell = nnx.OptimizedLSTMCell(features, hidden, rngs=nnx.Rngs(0))
        return jax.tree.leaves(nnx.state(cell, nnx.Param))

    def dropout(self) -> str:
        from flax import nnx

        lacks("dropout", ["dropout", "rate"], nnx.RNN, nnx.OptimizedLSTMCell)
