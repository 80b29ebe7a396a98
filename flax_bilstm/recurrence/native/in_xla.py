"""The passes of a layer in XLA, equal to the library's, where it cannot be called."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from flax_bilstm.recurrence import fused
from flax_bilstm.recurrence.equations import State, Weights, matmul, validity

SAVED = 2
"""Arrays that training saves per direction: the gates, and the cell that each step starts from."""


def in_groups(arrays: Sequence[Array], size: int) -> tuple[tuple[Array, ...], ...]:
    """Split into groups of `size` consecutive elements."""
    return tuple(tuple(arrays[k : k + size]) for k in range(0, len(arrays), size))


def forward(
    x: Array,
    h_0: Array,
    lengths: Array,
    c_0: Array,
    *weights: Array,
    reverse: bool,
    save: bool,
    ragged: bool,
) -> list[Array]:
    """`primitives.forward`, given its operands."""
    valid = validity(lengths, x.shape[0]) if ragged else None
    results = [
        fused.forward_loop(
            Weights(kernel_ih, kernel_hh, bias, None, None),
            x,
            State(h_0[k], c_0[k]),
            valid,
            reverse or k == 1,
            save,
        )
        for k, (kernel_ih, kernel_hh, bias) in enumerate(in_groups(weights, 3))
    ]
    outputs, finals, saved = zip(*results, strict=True)
    final = jax.tree.map(lambda *each: jnp.stack(each), *finals)
    arrays = []
    if save:
        for *gates, cells in saved:
            arrays += [jnp.concatenate(gates, axis=-1), cells]
    return [jnp.concatenate(outputs, axis=-1), *final, *arrays]


def backward(
    d_outputs: Array,
    d_h_n: Array,
    lengths: Array,
    d_c_n: Array,
    *others: Array,
    reverse: bool,
    ragged: bool,
) -> list[Array]:
    """`primitives.backward`, given its operands."""
    valid = validity(lengths, d_outputs.shape[0]) if ragged else None
    parts = jnp.split(d_outputs, len(d_h_n), axis=-1)
    d_initials, dz = [], []
    for k, (kernel_hh, gates, cells) in enumerate(in_groups(others, 1 + SAVED)):
        weights = Weights(kernel_hh, kernel_hh, None, None, None)  # W_ih is not used
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        d_final = State(d_h_n[k], d_c_n[k])
        d_initial, (d_gates, _, _) = fused.backward_loop(
            weights, valid, fused.Saved(i, f, g, o, cells), parts[k], d_final, reverse or k == 1
        )
        d_initials.append(d_initial)
        dz.append(d_gates)
    return [*jax.tree.map(lambda *each: jnp.stack(each), *d_initials), *dz]


def weight_gradients(
    x: Array,
    h_0: Array,
    lengths: Array,
    outputs: Array,
    *dz: Array,
    reverse: bool,
    ragged: bool,
) -> list[Array]:
    """`primitives.weight_gradients`, given its operands."""
    valid = validity(lengths, x.shape[0]) if ragged else None
    parts = jnp.split(outputs, len(h_0), axis=-1)
    found: list[Array] = []
    for k, each in enumerate(dz):
        columns, dtype = each.shape[-1], x.dtype
        like = Weights(
            jnp.zeros((x.shape[-1], columns), dtype),
            jnp.zeros((h_0.shape[-1], columns), dtype),
            jnp.zeros(columns, dtype),
            None,
            None,
        )
        gates = fused.GateGradients(each, None, None)
        d_weights, _ = fused.product_gradients(
            like, x, h_0[k], valid, parts[k], gates, reverse or k == 1
        )
        assert d_weights.bias_ih is not None
        found += [d_weights.kernel_ih, d_weights.kernel_hh, d_weights.bias_ih]
    return found


def input_gradients(*operands: Array, reverse: bool) -> list[Array]:
    """`primitives.input_gradients`, given its operands."""
    found = [matmul(dz, kernel_ih.T) for dz, kernel_ih in in_groups(operands, 2)]
    return [sum(found[1:], found[0])]
