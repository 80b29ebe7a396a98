"""flax.nnx: its RNN and Bidirectional over its cell, and the network as its user writes it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.cells import INPUT_DIM, OUTPUT_DIM, Cell
from benchmarks.contestants import Prepared, jitted
from benchmarks.contestants.jitted import set_up as set_up
from benchmarks.workload import Arrays, inputs, weights


class Layers(nnx.Module):
    """LSTM layers, each bidirectional or forward only."""

    def __init__(self, cell: Cell, rngs: nnx.Rngs):
        def rnn(features: int) -> nnx.RNN:
            return nnx.RNN(nnx.OptimizedLSTMCell(features, cell.hidden_dim, rngs=rngs), rngs=rngs)

        def layer(features: int) -> nnx.Module:
            if cell.directions == 1:
                return rnn(features)
            return nnx.Bidirectional(rnn(features), rnn(features), rngs=rngs)

        later = cell.directions * cell.hidden_dim
        self.layers = nnx.List([layer(later if k else INPUT_DIM) for k in range(cell.layers)])

    def __call__(self, x: jax.Array, lengths: jax.Array | None) -> Any:
        """(batch, time, input) → outputs and (h_n, c_n) in PyTorch's layout."""
        carries: list[Any] = []
        for layer in self.layers:
            carry, x = layer(x, seq_lengths=lengths, return_carry=True)
            carries += carry if isinstance(layer, nnx.Bidirectional) else (carry,)
        cells, hiddens = zip(*carries, strict=True)
        return x, (jnp.stack(hiddens), jnp.stack(cells))


class Network(nnx.Module):
    """Bidirectional LSTM, softmax(y yᵀ) y, dense on the last step."""

    def __init__(self, cell: Cell, rngs: nnx.Rngs):
        self.lstm = Layers(cell, rngs)
        self.fc = nnx.Linear(2 * cell.hidden_dim, OUTPUT_DIM, rngs=rngs)

    def __call__(self, x: jax.Array, lengths: None) -> jax.Array:
        """(batch, time, input) → (batch, output)."""
        y, _ = self.lstm(x, lengths)  # (batch, time, 2·hidden)
        attention = jax.nn.softmax(jnp.einsum("bqf,btf->bqt", y, y), axis=-1)
        return self.fc(jnp.einsum("bqt,btf->bqf", attention, y)[:, -1])


def build(cell: Cell) -> Prepared:
    """The layer, or the network, with the cell's weights and inputs."""
    jax.clear_caches()  # those of the previous cell
    model: Any = Layers(cell, nnx.Rngs(0)) if cell.part == "layer" else Network(cell, nnx.Rngs(0))
    _load(model, weights(cell))
    made = inputs(cell)
    extra = {name: jnp.asarray(a) for name, a in made._asdict().items() if a is not None}
    x = extra.pop("x")
    prepared = jitted.prepare(model, cell, lambda model, *given: model(*given), _named, x, extra)
    if made.lengths is None:
        return prepared
    padding = np.arange(cell.time) >= made.lengths[:, None]

    def arrays(result: Any) -> Arrays:  # Flax leaves numbers in the padding of the outputs
        found = prepared.arrays(result)
        return {**found, "outputs": np.where(padding[:, :, None], 0, found["outputs"])}

    return prepared._replace(arrays=arrays)


def _cells(layers: Any) -> dict[str, Any]:
    """Each of Flax's cells, under the suffix of PyTorch's names for its parameters."""
    found = {}
    for k, layer in enumerate(layers.layers):
        both = isinstance(layer, nnx.Bidirectional)
        found[f"l{k}"] = layer.forward_rnn.cell if both else layer.cell
        if both:
            found[f"l{k}_reverse"] = layer.backward_rnn.cell
    return found


def _load(model: Any, state: Arrays) -> None:
    """PyTorch's weights; Flax's cell has one bias, so PyTorch's two are summed."""
    network = isinstance(model, Network)
    prefix = "lstm." if network else ""
    for place, cell in _cells(model.lstm if network else model).items():
        bias = state[f"{prefix}bias_ih_{place}"] + state[f"{prefix}bias_hh_{place}"]
        cell.dense_i.kernel[...] = jnp.asarray(state[f"{prefix}weight_ih_{place}"].T)
        cell.dense_h.kernel[...] = jnp.asarray(state[f"{prefix}weight_hh_{place}"].T)
        cell.dense_h.bias[...] = jnp.asarray(bias)
    if network:
        model.fc.kernel[...] = jnp.asarray(state["fc.weight"].T)
        model.fc.bias[...] = jnp.asarray(state["fc.bias"])


def _named(model: Any) -> Arrays:
    """A layer's parameters, or gradients, under PyTorch's names, with one bias instead of two."""
    arrays = {}
    for place, cell in _cells(model).items():
        arrays[f"weight_ih_{place}"] = np.asarray(cell.dense_i.kernel[...]).T
        arrays[f"weight_hh_{place}"] = np.asarray(cell.dense_h.kernel[...]).T
        arrays[f"bias_ih_{place}"] = np.asarray(cell.dense_h.bias[...])
    return arrays
