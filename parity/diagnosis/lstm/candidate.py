"""The stages of an LSTM in Flax: the unchanged module, run on the reference's values.

Each function takes the `flax_bilstm.LSTM` and the values that the stage reads, puts the reference's
values into the places before the stage, and returns the stage's value. The module is a private
copy, so its implementation can be replaced by one that returns those values.
"""

from collections.abc import Mapping
from itertools import count
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from flax_bilstm import recurrence
from flax_bilstm.recurrence.equations import State
from parity.diagnosis.lstm import gates
from parity.diagnosis.lstm.reference import Cell

Inputs = Mapping[str, Array]


def quantity(lstm: Any, inputs: Inputs, cell: Cell, name: str) -> Array:
    """A quantity of every step (`gates`), by the module's implementation and weights."""
    run = recurrence.resolve(lstm.implementation)
    x = inputs["x"]
    weights = getattr(lstm.layers[cell.layer], cell.direction).weights(x.dtype)
    state = State(inputs["hidden"], inputs["cell"])
    value = gates.quantity(name, run, weights, x, state, cell.reverse)
    return jnp.where(inputs["valid"], value, jnp.zeros_like(value))


def direction(lstm: Any, inputs: Inputs, cell: Cell, *, final: bool = False) -> Array:
    """One direction's outputs, or its final cell and hidden state, as the LSTM computes them."""
    found: dict[str, Any] = {}
    numbers = count()
    real = recurrence.resolve(lstm.implementation)

    def run(weights: Any, x: Array, state: State, valid: Any, reverse: bool) -> Any:
        number = next(numbers)
        if number == cell.number:
            found["outputs"], found["final"] = real(weights, x, state, valid, reverse)
            return found["outputs"], found["final"]
        if number // lstm.num_directions == cell.layer - 1:
            names = ("before.forward", "before.reverse")
            return jnp.swapaxes(inputs[names[number % lstm.num_directions]], 0, 1), state
        return jnp.zeros((*x.shape[:2], state.hidden.shape[-1]), x.dtype), state

    _call(lstm, inputs, run)
    if final:
        state = found["final"]
        return jnp.concatenate([state.cell, state.hidden.astype(state.cell.dtype)], axis=-1)
    return jnp.swapaxes(found["outputs"], 0, 1)


def wired(lstm: Any, inputs: Inputs, name: str, layer: int = 0) -> Array:
    """The LSTM's "output", "h_n" or "c_n", put together from the directions' values.

    The "output" of a layer before the last is what the next layer reads.
    """
    found: list[Array] = []
    names = iter(
        f"lstm.layer{k}.{direction}"
        for k in range(lstm.num_layers)
        for direction in ("forward", "reverse")[: lstm.num_directions]
    )

    def run(weights: Any, x: Array, state: State, valid: Any, reverse: bool) -> Any:
        own = next(names)
        found.append(jnp.swapaxes(x, 0, 1))
        output = inputs.get(f"{own}.outputs")
        if output is None:
            output = jnp.zeros((x.shape[1], x.shape[0], state.hidden.shape[-1]), x.dtype)
        final = inputs.get(f"{own}.final_state")
        if final is not None:
            state = State(final[:, lstm.hidden_size :], final[:, : lstm.hidden_size])
        return jnp.swapaxes(output, 0, 1), state

    output, (h_n, c_n) = _call(lstm, inputs, run)
    if name != "output":
        return h_n if name == "h_n" else c_n
    following = (layer + 1) * lstm.num_directions
    return found[following] if following < len(found) else output


def _call(lstm: Any, inputs: Inputs, run: Any) -> Any:
    """Call the LSTM with `run` as its implementation, batch first whatever its layout.

    If the inputs contain a layer before, only the shape of x matters.
    """
    lstm.implementation = run
    state = (inputs["h_0"], inputs["c_0"]) if "h_0" in inputs else None
    x = jnp.swapaxes(inputs["x"], 0, 1) if lstm.time_major else inputs["x"]
    y, final = lstm(x, initial_state=state, lengths=inputs.get("lengths"))
    return (jnp.swapaxes(y, 0, 1) if lstm.time_major else y), final
