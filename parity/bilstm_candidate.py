"""The stages of the network in Flax: the model as it is, run by its own wiring on given values.

Each function takes the Flax model and the values that the stage reads, forces the reference's
values into the places before the stage, and returns the stage's value.
"""

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from flax_bilstm import recurrence
from flax_bilstm.recurrence.equations import State
from parity import gates
from parity.bilstm_reference import Cell
from parity.forcing import forced, forced_recurrence
from parity.nnx_side import recording

Inputs = Mapping[str, Array]


def quantity(model: Any, inputs: Inputs, cell: Cell, name: str) -> Array:
    """What `parity.gates` finds out about every step, by the model's implementation and weights."""
    lstm = getattr(model, "lstm", model)
    run = recurrence.resolve(lstm.implementation)
    x = inputs["x"]
    weights = getattr(lstm.layers[cell.layer], cell.direction).weights(x.dtype)
    state = State(inputs["hidden"], inputs["cell"])
    value = gates.quantity(name, run, weights, x, state, cell.reverse)
    return jnp.where(inputs["valid"], value, jnp.zeros_like(value))


def direction(model: Any, inputs: Inputs, cell: Cell, *, final: bool = False) -> Array:
    """One direction's outputs, or its final cell and hidden state, as the LSTM has it run."""
    lstm = getattr(model, "lstm", model)
    found: dict[str, Any] = {}
    numbers = count()

    def run(weights: Any, x: Array, state: State, valid: Any, reverse: bool) -> Any:
        number = next(numbers)
        if number == cell.number:
            found["outputs"], found["final"] = real(weights, x, state, valid, reverse)
            return found["outputs"], found["final"]
        if number // lstm.num_directions == cell.layer - 1:
            names = ("before.forward", "before.reverse")
            return jnp.swapaxes(inputs[names[number % lstm.num_directions]], 0, 1), state
        return jnp.zeros((*x.shape[:2], state.hidden.shape[-1]), x.dtype), state

    with forced_recurrence(lstm.implementation, run) as real:
        _call(lstm, inputs)
    if final:
        state = found["final"]
        return jnp.concatenate([state.cell, state.hidden.astype(state.cell.dtype)], axis=-1)
    return jnp.swapaxes(found["outputs"], 0, 1)


def wired(model: Any, inputs: Inputs, name: str, layer: int = 0) -> Array:
    """What the LSTM makes of all directions' outputs or final states: "output", "h_n" or "c_n".

    The output of a layer before the last is what the next one is given.
    """
    lstm = getattr(model, "lstm", model)
    found: list[Array] = []
    cells = [
        f"lstm.layer{k}.{direction}"
        for k in range(lstm.num_layers)
        for direction in ("forward", "reverse")[: lstm.num_directions]
    ]
    names = iter(cells)

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

    with forced_recurrence(lstm.implementation, run):
        output, (h_n, c_n) = _call(lstm, inputs)
    if name != "output":
        return h_n if name == "h_n" else c_n
    following = (layer + 1) * lstm.num_directions
    return found[following] if following < len(found) else output


def attention(model: Any, inputs: Inputs, name: str) -> Array:
    """The attention "weights" or "context" that the network gets from its attention."""
    with (
        forced(model.lstm, lambda *_, **__: (inputs["y"], None)),
        recording(model.attention) as (results,),
    ):
        model(_like_x(model, inputs["y"]), **_lengths(inputs))
    context, weights = last_query(results, inputs.get("lengths"))
    return weights if name == "weights" else context


def last_query(results: Sequence[Any], lengths: Array | None) -> tuple[Array, Array]:
    """Context and weights of the last query, of one call that asked for it alone or for all."""
    ((context, weights),) = results
    if context.ndim == 2:
        return context, weights
    rows = jnp.arange(len(context))
    last = rows * 0 - 1 if lengths is None else lengths - 1
    return context[rows, last], weights[rows, last]


def head(model: Any, inputs: Inputs) -> Array:
    """What the network makes of its attention's contexts: of all of them if it asks for all."""

    def attend(*_: Any, queries: str = "all", return_weights: bool = False, **__: Any) -> Any:
        context = inputs["context"] if queries == "last" else inputs["all"]
        return (context, inputs["weights"]) if return_weights else context

    with (
        forced(model.lstm, lambda *_, **__: (inputs["y"], None)),
        forced(model.attention, attend),
    ):
        return model(_like_x(model, inputs["y"]), **_lengths(inputs))


def _call(lstm: Any, inputs: Inputs) -> Any:
    """The LSTM on x, of which only the shape matters where a layer before is given."""
    state = (inputs["h_0"], inputs["c_0"]) if "h_0" in inputs else None
    return lstm(inputs["x"], initial_state=state, **_lengths(inputs))


def _lengths(inputs: Inputs) -> dict[str, Array]:
    return {"lengths": inputs["lengths"]} if "lengths" in inputs else {}


def _like_x(model: Any, y: Array) -> Array:
    return jnp.zeros((*y.shape[:2], model.lstm.input_size), y.dtype)
