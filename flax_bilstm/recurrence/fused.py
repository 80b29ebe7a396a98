"""One product, one σ and one tanh per step, and a custom VJP.

In the forward pass σ is computed for the columns of all four gates, although the result for the
cell gate is not used: one pass over contiguous numbers is faster than three. In the backward pass
the loop computes only the gates' gradient dz; the gradients of weights, biases and input are one
product each over all steps after it (back-propagation through time, Werbos 1990; the same split as
in cuDNN, Appleyard et al. 2016). Because of the custom VJP, forward-mode AD (jvp, jacfwd) is not
supported: use `implementation="scan"`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jaxtyping import Array, Bool, Float

from flax_bilstm.recurrence.equations import (
    State,
    Weights,
    accumulation_dtype,
    matmul,
    project,
    where_valid,
)

HOIST_BELOW_BATCH = 32
"""Below this batch size x W_ih is one product before the loop; from it on, [x, h] W is in it."""


class Saved(NamedTuple):
    """The activated gates of every step, and the cell that the step started from.

    One array per gate: writing them into one concatenated array would be slower.
    """

    i: Float[Array, "time batch hidden"]
    f: Float[Array, "time batch hidden"]
    g: Float[Array, "time batch hidden"]
    o: Float[Array, "time batch hidden"]
    previous_cell: Float[Array, "time batch hidden"]


class Residuals(NamedTuple):
    """What the backward pass needs."""

    weights: Weights
    x: Float[Array, "time batch in"]
    initial_hidden: Float[Array, "batch out"]
    valid: Bool[Array, "time batch 1"] | None
    outputs: Float[Array, "time batch out"]
    saved: Saved


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def run_direction(
    weights: Weights,
    x: Float[Array, "time batch in"],
    state: State,
    valid: Bool[Array, "time batch 1"] | None,
    reverse: bool,
) -> tuple[Float[Array, "time batch out"], State]:
    """One direction over time; see `recurrence.Implementation`."""
    outputs, final, _ = forward_loop(weights, x, state, valid, reverse, save=False)
    return outputs, final


def forward_loop(
    weights: Weights,
    x: Float[Array, "time batch in"],
    state: State,
    valid: Bool[Array, "time batch 1"] | None,
    reverse: bool,
    save: bool,
) -> tuple[Array, State, Saved | None]:
    """Outputs, final state and, if `save`, what the backward pass needs of every step."""
    dtype, wide = x.dtype, accumulation_dtype(x.dtype)
    hidden_size = state.cell.shape[-1]
    bias = jnp.zeros(4 * hidden_size, wide)
    for term in (weights.bias_ih, weights.bias_hh):
        if term is not None:
            bias = bias + term.astype(wide)
    hoist = isinstance(x.shape[1], int) and x.shape[1] < HOIST_BELOW_BATCH  # unknown in exports
    if hoist:
        inputs = matmul(x, weights.kernel_ih) + bias[None, None]
    else:
        inputs = x
        kernel = jnp.concatenate([weights.kernel_ih, weights.kernel_hh])

    def step(state: State, inputs_t: tuple[Array, Array | None]) -> tuple[State, tuple[Any, ...]]:
        x_t, valid_t = inputs_t
        if hoist:
            z = x_t + matmul(state.hidden, weights.kernel_hh)
        else:
            z = matmul(jnp.concatenate([x_t, state.hidden], axis=-1), kernel) + bias[None]
        i, f, _, o = jnp.split(jax.nn.sigmoid(z), 4, axis=-1)
        g = jnp.tanh(z[:, 2 * hidden_size : 3 * hidden_size])
        cell = f * state.cell + i * g
        hidden = project(weights, o * jnp.tanh(cell), dtype)
        carried = State(
            where_valid(valid_t, hidden, state.hidden), where_valid(valid_t, cell, state.cell)
        )
        output = where_valid(valid_t, hidden, None)
        return carried, (output, Saved(i, f, g, o, state.cell) if save else None)

    final, (outputs, saved) = jax.lax.scan(step, state, (inputs, valid), reverse=reverse)
    return outputs, final, saved


def _run_and_save(
    weights: Weights, x: Array, state: State, valid: Array | None, reverse: bool
) -> tuple[tuple[Array, State], Residuals]:
    outputs, final, saved = forward_loop(weights, x, state, valid, reverse, save=True)
    assert saved is not None
    return (outputs, final), Residuals(weights, x, state.hidden, valid, outputs, saved)


class GateGradients(NamedTuple):
    """What the loop of the backward pass gives to the products after it."""

    dz: Float[Array, "time batch gates"]
    unprojected: Float[Array, "time batch hidden"] | None
    d_out: Float[Array, "time batch out"] | None


def backward_loop(
    weights: Weights,
    valid: Bool[Array, "time batch 1"] | None,
    saved: Saved,
    d_outputs: Float[Array, "time batch out"],
    d_final: State,
    reverse: bool,
) -> tuple[State, GateGradients]:
    """The gradients of the initial state, and of the gates before σ and tanh."""
    dtype, wide = d_outputs.dtype, saved.previous_cell.dtype

    def step(d_state: State, inputs_t: tuple[Any, ...]) -> tuple[State, GateGradients]:
        d_output, valid_t, (i, f, g, o, previous_cell) = inputs_t
        d_out = d_hidden = where_valid(valid_t, d_output.astype(wide) + d_state.hidden, None)
        if weights.kernel_hr is not None:
            d_hidden = matmul(d_out.astype(dtype), weights.kernel_hr.T)
        tanh_cell = jnp.tanh(f * previous_cell + i * g)
        d_cell = d_state.cell + d_hidden * o * (1 - tanh_cell**2)
        dz = jnp.concatenate(
            [
                d_cell * g * i * (1 - i),
                d_cell * previous_cell * f * (1 - f),
                d_cell * i * (1 - g**2),
                d_hidden * tanh_cell * o * (1 - o),
            ],
            axis=-1,
        ).astype(dtype)
        dz = where_valid(valid_t, dz, None)  # 0 times a NaN state would be NaN
        d_previous = State(matmul(dz, weights.kernel_hh.T), d_cell * f)
        if valid_t is not None:  # a padded step passes its state's gradient on unchanged
            d_previous = State(
                jnp.where(valid_t, d_previous.hidden, d_state.hidden),
                jnp.where(valid_t, d_previous.cell, d_state.cell),
            )
        if weights.kernel_hr is None:
            return d_previous, GateGradients(dz, None, None)
        unprojected = where_valid(valid_t, (o * tanh_cell).astype(dtype), None)
        return d_previous, GateGradients(dz, unprojected, d_out.astype(dtype))

    d_last = State(d_final.hidden.astype(wide), d_final.cell)
    d_initial, gradients = jax.lax.scan(
        step, d_last, (d_outputs, valid, saved), reverse=not reverse
    )
    return State(d_initial.hidden.astype(dtype), d_initial.cell), gradients


def product_gradients(
    weights: Weights,
    x: Float[Array, "time batch in"],
    initial_hidden: Float[Array, "batch out"],
    valid: Bool[Array, "time batch 1"] | None,
    outputs: Float[Array, "time batch out"],
    gates: GateGradients,
    reverse: bool,
) -> tuple[Weights, Float[Array, "time batch in"]]:
    """The gradients of the weights and of x: one product each over all steps."""
    dtype, wide = x.dtype, accumulation_dtype(x.dtype)
    dz, unprojected, d_out = gates

    def over_steps(a: Array, b: Array, like: Array) -> Array:
        # Under a mesh of explicit axes the sum over a split batch must say how it is laid out.
        placed = jax.typeof(like).sharding
        out = placed if AxisType.Explicit in placed.mesh.axis_types else None
        # Not einsum, which sums over (batch, time): XLA then copies dz into that order first.
        axes = ((0, 1), (0, 1))
        product = jnp.tensordot(a, b, axes, preferred_element_type=wide, out_sharding=out)
        return product.astype(like.dtype)

    carried = where_valid(valid, outputs, jnp.broadcast_to(initial_hidden[None], outputs.shape))
    if reverse:
        previous_hidden = jnp.concatenate([carried[1:], initial_hidden[None]])
    else:
        previous_hidden = jnp.concatenate([initial_hidden[None], carried[:-1]])
    previous_hidden = where_valid(valid, previous_hidden, None)
    d_bias = jnp.sum(dz, axis=(0, 1), dtype=wide)
    kernel_hr = None
    if weights.kernel_hr is not None:
        assert unprojected is not None
        assert d_out is not None
        kernel_hr = over_steps(unprojected, d_out, weights.kernel_hr)
    d_weights = Weights(
        kernel_ih=over_steps(x, dz, weights.kernel_ih),
        kernel_hh=over_steps(previous_hidden, dz, weights.kernel_hh),
        bias_ih=None if weights.bias_ih is None else d_bias.astype(weights.bias_ih.dtype),
        bias_hh=None if weights.bias_hh is None else d_bias.astype(weights.bias_hh.dtype),
        kernel_hr=kernel_hr,
    )
    return d_weights, matmul(dz, weights.kernel_ih.T).astype(dtype)


def _backward(
    reverse: bool, residuals: Residuals, cotangents: tuple[Array, State]
) -> tuple[Weights, Array, State, None]:
    weights, x, initial_hidden, valid, outputs, saved = residuals
    d_outputs, d_final = cotangents
    d_initial, gates = backward_loop(weights, valid, saved, d_outputs, d_final, reverse)
    d_weights, d_x = product_gradients(weights, x, initial_hidden, valid, outputs, gates, reverse)
    return d_weights, d_x, d_initial, None


run_direction.defvjp(_run_and_save, _backward)
