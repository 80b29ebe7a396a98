"""The LSTM recurrence as pure functions: one cell step, and one direction over time.

The equations are those of https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html
(Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000 and the optional
projection of Sak et al. 2014):

    i, f, g, o = split(x W_ih + b_ih + h W_hh + b_hh)      σ for i, f, o; tanh for g
    c' = f c + i g
    h' = o tanh(c')            with a projection: h' = (o tanh(c')) W_hr

Arrays are time-major here: x is (time, batch, features). Every array that passes between two steps
is named and typed once, below; all implementations (one file each in this folder) use these types.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Size = Any
"""Size of an axis: an int, or a symbolic dimension while `jax.export` leaves it open."""


class Weights(NamedTuple):
    """One direction of one layer. Gates are stacked i, f, g, o along the last axis."""

    kernel_ih: Float[Array, "in gates"]
    kernel_hh: Float[Array, "out gates"]
    bias_ih: Float[Array, " gates"] | None
    bias_hh: Float[Array, " gates"] | None
    kernel_hr: Float[Array, "hidden out"] | None


class State(NamedTuple):
    """The state between two steps. `cell` is at least float32, whatever the compute dtype."""

    hidden: Float[Array, "*batch out"]
    cell: Float[Array, "*batch hidden"]


def accumulation_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype of sums and of the cell state: float32 under half precision, else `dtype`."""
    return jnp.dtype(jnp.float32) if jnp.dtype(dtype).itemsize < 4 else jnp.dtype(dtype)


def matmul(
    a: Float[Array, "*batch inner"], b: Float[Array, "inner outer"]
) -> Float[Array, "*batch outer"]:
    """a b, summed and returned in the accumulation dtype of its operands."""
    return jnp.matmul(a, b, preferred_element_type=accumulation_dtype(b.dtype))


def gate_preactivations(
    weights: Weights, hidden: Float[Array, "*batch out"], x: Float[Array, "*batch in"]
) -> Float[Array, "*batch gates"]:
    """x W_ih + b_ih + h W_hh + b_hh, the four gates stacked i, f, g, o."""
    z = matmul(x, weights.kernel_ih) + matmul(hidden, weights.kernel_hh)
    for bias in (weights.bias_ih, weights.bias_hh):
        if bias is not None:
            z = z + jnp.expand_dims(bias.astype(z.dtype), tuple(range(z.ndim - 1)))
    return z


def project(
    weights: Weights, hidden: Float[Array, "*batch hidden"], dtype: jnp.dtype
) -> Float[Array, "*batch out"]:
    """o tanh(c) → the output, rounded to the compute dtype, and projected if there is a W_hr."""
    hidden = hidden.astype(dtype)
    if weights.kernel_hr is None:
        return hidden
    return matmul(hidden, weights.kernel_hr).astype(dtype)


def cell_step(
    weights: Weights,
    state: State,
    x: Float[Array, "*batch in"],
    valid: Bool[Array, "*batch 1"] | None = None,
) -> State:
    """One step of one direction: the equations at the top of this file, in that order.

    Where `valid` is False the result is finite and passes no gradient on, whatever the state and
    the weights are; multiplying by 0 would not do, since 0 times NaN or infinity is NaN.
    """
    state = State(where_valid(valid, state.hidden, None), where_valid(valid, state.cell, None))
    z = where_valid(valid, gate_preactivations(weights, state.hidden, x), None)
    input_gate, forget_gate, cell_gate, output_gate = jnp.split(z, 4, axis=-1)
    kept = jax.nn.sigmoid(forget_gate) * state.cell
    added = jax.nn.sigmoid(input_gate) * jnp.tanh(cell_gate)
    cell = kept + added
    hidden = jax.nn.sigmoid(output_gate) * jnp.tanh(cell)
    return State(project(weights, hidden, x.dtype), cell)


def validity(lengths: Int[Array, " batch"], time: Size) -> Bool[Array, "time batch 1"]:
    """True if a step belongs to its sequence, False in the padding."""
    return (jnp.arange(time, dtype=lengths.dtype)[:, None] < lengths[None, :])[:, :, None]


def where_valid(valid: Bool[Array, "*batch 1"] | None, new: Array, old: Array | None) -> Array:
    """`new` on valid steps and `old` (zeros if None) in the padding; `new` if all are valid."""
    if valid is None:
        return new
    return jnp.where(valid, new, jnp.zeros_like(new) if old is None else old)
