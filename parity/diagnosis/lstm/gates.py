"""The gates of one step of a Flax model's recurrence, whatever its implementation.

An implementation returns only the new state, c' = f c + i g and h' = o tanh(c'). But its weights
are an argument: if large biases hold some gates open or closed, and c is 0 or 1, the new state
equals a single gate.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_bilstm.recurrence.equations import State, Weights, accumulation_dtype

HOLD = 40.0
"""Size of both biases of a held gate: σ(±80) and tanh(80) are 0 and 1, to the last bit of 1."""

GATES = ("input_gate", "forget_gate", "cell_gate", "output_gate")


def held(weights: Weights, gates: dict[str, float]) -> Weights:
    """The weights with some gates held at 1 (for +1) or 0 (for −1; the cell gate takes only +1)."""
    hidden = weights.kernel_hh.shape[1] // 4
    signs = jnp.repeat(jnp.asarray([gates.get(gate, 0.0) for gate in GATES]), hidden)
    free = (signs == 0).astype(weights.kernel_hh.dtype)

    def bias(given: Array | None) -> Array:
        given = jnp.zeros_like(free) if given is None else given
        return given * free.astype(given.dtype) + (HOLD * signs).astype(given.dtype)

    return weights._replace(
        kernel_ih=weights.kernel_ih * free[None],
        kernel_hh=weights.kernel_hh * free[None],
        bias_ih=bias(weights.bias_ih),
        bias_hh=bias(weights.bias_hh),
    )


def windows(
    implementation: Any,
    weights: Weights,
    x: Float[Array, "batch time in"],
    state: State,
    reverse: bool,
) -> State:
    """The state after each step, each step run alone from its entry in `state`.

    `state` and the result are (batch, time, ·).
    """
    # `State` requires this dtype even if the rest is bfloat16.
    state = state._replace(cell=state.cell.astype(accumulation_dtype(state.cell.dtype)))

    def window(x: Array, state: State) -> State:
        _, after = implementation(weights, x[None], state, None, reverse)
        return after

    return jax.vmap(window, in_axes=1, out_axes=1)(x, state)


def quantity(
    name: str, run: Any, weights: Weights, x: Array, state: State, reverse: bool
) -> Float[Array, "batch time _"]:
    """A gate, the new cell or the new hidden state of every step; "step" is the last two.

    "carry" is the new cell with the input gate closed and the forget gate open: the old cell.
    """

    def after(gates: dict[str, float], cell: float) -> State:
        before = state._replace(cell=jnp.full_like(state.cell, cell))
        return windows(run, held(weights, gates), x, before, reverse)

    if name == "carry":  # c' = c
        kept = held(weights, {"input_gate": -1, "forget_gate": 1, "cell_gate": 1})
        return windows(run, kept, x, state, reverse).cell
    if name == "input_gate":  # c' = i
        return after({"forget_gate": -1, "cell_gate": 1}, 0.0).cell
    if name == "forget_gate":  # c' = f
        return after({"input_gate": -1, "cell_gate": 1}, 1.0).cell
    if name == "cell_gate":  # c' = g
        return after({"input_gate": 1, "forget_gate": -1}, 0.0).cell
    if name == "output_gate":  # h' = o tanh(2), by h' = tanh(2)
        two = {"input_gate": 1.0, "forget_gate": 1.0, "cell_gate": 1.0}
        return after(two, 1.0).hidden / after({**two, "output_gate": 1}, 1.0).hidden
    new = windows(run, weights, x, state, reverse)
    return {
        "cell": new.cell,
        "hidden": new.hidden,
        "step": jnp.concatenate([new.cell, new.hidden.astype(new.cell.dtype)], axis=-1),
    }[name]
