"""The passes of a layer, each one call of a JAX primitive."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax.interpreters import batching
from jaxtyping import Array, Float, Int

from flax_bilstm.recurrence.equations import State, Weights
from flax_bilstm.recurrence.native import in_xla, results
from flax_bilstm.recurrence.native.batching import merged, one_each
from flax_bilstm.recurrence.native.lowering import any_layout, gates_become_dz, primitive_of


class Call(NamedTuple):
    """What the calls of a layer have in common."""

    reverse: bool
    """For a single direction; the second of two directions is the reverse one."""
    batch_major: bool
    """The arrays over time lie in memory as (batch, time, ·), whatever their shapes say."""


def forward(
    weights: Sequence[Weights],
    x: Float[Array, "time batch in"],
    states: State,
    lengths: Int[Array, " batch"] | None,
    call: Call,
    save: bool,
) -> tuple[Array, State, tuple[tuple[Array, ...], ...]]:
    """Outputs, final states, and each direction's two saved arrays, or nothing if not `save`."""
    operands = [x, states.hidden, _known(lengths, x), states.cell]
    for each in weights:
        operands += [each.kernel_ih, each.kernel_hh, _bias(each)]
    ragged = lengths is not None
    outputs, h_n, c_n, *saved = forward_p.bind(
        *operands, save=save, ragged=ragged, **call._asdict()
    )
    return outputs, State(h_n, c_n), in_xla.in_groups(saved, in_xla.SAVED)


def backward(
    weights: Sequence[Weights],
    lengths: Int[Array, " batch"] | None,
    saved: Sequence[Sequence[Array]],
    d_outputs: Float[Array, "time batch out"],
    d_final: State,
    call: Call,
) -> tuple[State, list[Array]]:
    """The gradient of the initial states, and dz (time, batch, gates) of each direction."""
    operands = [d_outputs, d_final.hidden, _known(lengths, d_outputs), d_final.cell]
    for each, arrays in zip(weights, saved, strict=True):
        operands += [each.kernel_hh, *arrays]
    d_h_0, d_c_0, *dz = backward_p.bind(*operands, ragged=lengths is not None, **call._asdict())
    return State(d_h_0, d_c_0), dz


def weight_gradients(
    weights: Sequence[Weights],
    x: Float[Array, "time batch in"],
    initial_hidden: Float[Array, "directions batch hidden"],
    lengths: Int[Array, " batch"] | None,
    outputs: Float[Array, "time batch out"],
    dz: Sequence[Float[Array, "time batch gates"]],
    call: Call,
) -> tuple[Weights, ...]:
    """The gradients of the weights of each direction."""
    operands = [x, initial_hidden, _known(lengths, x), outputs, *dz]
    found = weight_gradients_p.bind(*operands, ragged=lengths is not None, **call._asdict())
    return tuple(
        Weights(
            kernel_ih,
            kernel_hh,
            None if each.bias_ih is None else bias,
            None if each.bias_hh is None else bias,
            None,
        )
        for each, (kernel_ih, kernel_hh, bias) in zip(
            weights, in_xla.in_groups(found, 3), strict=True
        )
    )


def input_gradients(
    weights: Sequence[Weights], dz: Sequence[Float[Array, "time batch gates"]], call: Call
) -> Float[Array, "time batch in"]:
    """The gradient of x."""
    pairs = zip(dz, weights, strict=True)
    operands = [operand for d, each in pairs for operand in (d, each.kernel_ih)]
    d_x: Array = input_gradients_p.bind(*operands, **call._asdict())[0]
    return d_x


def _known(lengths: Array | None, x: Array) -> Int[Array, " batch"]:
    return jnp.full(x.shape[1], x.shape[0], jnp.int32) if lengths is None else lengths


def _bias(weights: Weights) -> Array:
    biases = [bias for bias in (weights.bias_ih, weights.bias_hh) if bias is not None]
    kernel = weights.kernel_hh
    return sum(biases[1:], biases[0]) if biases else jnp.zeros(kernel.shape[1], kernel.dtype)


forward_p = primitive_of(results.forward, in_xla.forward, states_in=(1, 3), states_out=(1, 2))
backward_p = primitive_of(
    results.backward,
    in_xla.backward,
    states_in=(1, 3),
    states_out=(0, 1),
    in_place=gates_become_dz,
)
weight_gradients_p = primitive_of(results.weight_gradients, in_xla.weight_gradients, states_in=(1,))
input_gradients_p = primitive_of(results.input_gradients, in_xla.input_gradients)

batching.primitive_batchers[forward_p] = merged(forward_p, 3, 3)
batching.primitive_batchers[backward_p] = merged(backward_p, 1 + in_xla.SAVED, 1)
batching.primitive_batchers[weight_gradients_p] = one_each(any_layout(in_xla.weight_gradients))
batching.primitive_batchers[input_gradients_p] = one_each(any_layout(in_xla.input_gradients))
