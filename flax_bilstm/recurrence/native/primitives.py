"""The passes of a layer as JAX primitives: what they return, how they are batched and lowered.

Lowered for one CPU they are a call of the library. For other platforms, for several devices (XLA
would gather a split batch before a call that it does not know) and for `jax.export` they are the
loops of `fused`, which return the same. Whoever traces a program need not know where it will run.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array, Float, Int

from flax_bilstm.recurrence import fused
from flax_bilstm.recurrence.equations import State, Weights, validity

SAVED = 2
"""Arrays that a training call keeps for each direction: the gates, and a step's first cell."""


def forward(
    weights: Sequence[Weights],
    x: Float[Array, "time batch in"],
    states: State,
    lengths: Int[Array, " batch"] | None,
    reverse: bool,
    save: bool,
) -> tuple[Array, State, tuple[tuple[Array, ...], ...]]:
    """Outputs, final states, and with `save` the two arrays of each direction, else nothing.

    The second of two directions is the reverse one; a direction alone is if `reverse` says so.
    """
    operands = [x, states.hidden, _known(lengths, x), states.cell]
    for each in weights:
        operands += [each.kernel_ih, each.kernel_hh, _bias(each)]
    ragged = lengths is not None
    outputs, h_n, c_n, *saved = forward_p.bind(*operands, reverse=reverse, save=save, ragged=ragged)
    return outputs, State(h_n, c_n), _in_groups(saved, SAVED)


def backward(
    weights: Sequence[Weights],
    lengths: Int[Array, " batch"] | None,
    saved: Sequence[Sequence[Array]],
    d_outputs: Float[Array, "time batch out"],
    d_final: State,
    reverse: bool,
) -> tuple[State, list[Array]]:
    """The gradient of the initial states, and dz (time, batch, gates) of each direction."""
    operands = [d_outputs, d_final.hidden, _known(lengths, d_outputs), d_final.cell]
    for each, arrays in zip(weights, saved, strict=True):
        operands += [each.kernel_hh, *arrays]
    d_h_0, d_c_0, *dz = backward_p.bind(*operands, reverse=reverse, ragged=lengths is not None)
    return State(d_h_0, d_c_0), dz


def weight_gradients(
    weights: Sequence[Weights],
    x: Float[Array, "time batch in"],
    initial_hidden: Float[Array, "directions batch hidden"],
    lengths: Int[Array, " batch"] | None,
    outputs: Float[Array, "time batch out"],
    dz: Sequence[Float[Array, "time batch gates"]],
    reverse: bool,
) -> tuple[Weights, ...]:
    """The gradient of each direction's weights, dz being that of its gates."""
    operands = [x, initial_hidden, _known(lengths, x), outputs, *dz]
    results = weight_gradients_p.bind(*operands, reverse=reverse, ragged=lengths is not None)
    return tuple(
        Weights(
            kernel_ih,
            kernel_hh,
            None if each.bias_ih is None else bias,
            None if each.bias_hh is None else bias,
            None,
        )
        for each, (kernel_ih, kernel_hh, bias) in zip(weights, _in_groups(results, 3), strict=True)
    )


def _known(lengths: Array | None, x: Array) -> Int[Array, " batch"]:
    return jnp.full(x.shape[1], x.shape[0], jnp.int32) if lengths is None else lengths


def _bias(weights: Weights) -> Array:
    biases = [bias for bias in (weights.bias_ih, weights.bias_hh) if bias is not None]
    kernel = weights.kernel_hh
    return sum(biases[1:], biases[0]) if biases else jnp.zeros(kernel.shape[1], kernel.dtype)


def _in_groups(arrays: Sequence[Array], size: int) -> tuple[tuple[Array, ...], ...]:
    return tuple(tuple(arrays[k : k + size]) for k in range(0, len(arrays), size))


def _forward_in_xla(
    x: Array,
    h_0: Array,
    lengths: Array,
    c_0: Array,
    *weights: Array,
    reverse: bool,
    save: bool,
    ragged: bool,
) -> list[Array]:
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
        for k, (kernel_ih, kernel_hh, bias) in enumerate(_in_groups(weights, 3))
    ]
    outputs, finals, saved = zip(*results, strict=True)
    final = jax.tree.map(lambda *each: jnp.stack(each), *finals)
    arrays = []
    if save:
        for *gates, cells in saved:
            arrays += [jnp.concatenate(gates, axis=-1), cells]
    return [jnp.concatenate(outputs, axis=-1), *final, *arrays]


def _backward_in_xla(
    d_outputs: Array,
    d_h_n: Array,
    lengths: Array,
    d_c_n: Array,
    *others: Array,
    reverse: bool,
    ragged: bool,
) -> list[Array]:
    valid = validity(lengths, d_outputs.shape[0]) if ragged else None
    parts = jnp.split(d_outputs, len(d_h_n), axis=-1)
    d_initials, dz = [], []
    for k, (kernel_hh, gates, cells) in enumerate(_in_groups(others, 1 + SAVED)):
        weights = Weights(kernel_hh, kernel_hh, None, None, None)  # W_ih is not used
        saved = *jnp.split(gates, 4, axis=-1), cells
        d_final = State(d_h_n[k], d_c_n[k])
        d_initial, (d_gates, _, _) = fused.backward_loop(
            weights, valid, saved, parts[k], d_final, reverse or k == 1
        )
        d_initials.append(d_initial)
        dz.append(d_gates)
    return [*jax.tree.map(lambda *each: jnp.stack(each), *d_initials), *dz]


def _weight_gradients_in_xla(
    x: Array,
    h_0: Array,
    lengths: Array,
    outputs: Array,
    *dz: Array,
    reverse: bool,
    ragged: bool,
) -> list[Array]:
    valid = validity(lengths, x.shape[0]) if ragged else None
    parts = jnp.split(outputs, len(dz), axis=-1)
    like = jnp.zeros((), x.dtype)
    weights = Weights(like, like, like, None, None)
    results: list[Array] = []
    for k, d_gates in enumerate(dz):
        gates = fused.GateGradients(d_gates, None, None)
        d_weights = fused.weight_gradients(
            weights, x, h_0[k], valid, parts[k], gates, reverse or k == 1
        )
        results += [array for array in d_weights if array is not None]
    return results


def _forward_avals(
    x: ShapedArray, h_0: ShapedArray, *others: ShapedArray, save: bool, **_: Any
) -> list[ShapedArray]:
    (time, batch, _), (directions, _, hidden), dtype = x.shape, h_0.shape, x.dtype
    sizes = [4 * hidden, hidden] * (directions if save else 0)
    saved = [ShapedArray((time, batch, size), dtype) for size in sizes]
    return [
        ShapedArray((time, batch, directions * hidden), dtype),
        _plain(h_0),
        _plain(h_0),
        *saved,
    ]


def _backward_avals(
    d_outputs: ShapedArray, d_h_n: ShapedArray, *others: ShapedArray, **_: Any
) -> list[ShapedArray]:
    (time, batch, _), (directions, _, hidden) = d_outputs.shape, d_h_n.shape
    dz = ShapedArray((time, batch, 4 * hidden), d_outputs.dtype)
    return [_plain(d_h_n), _plain(d_h_n), *[dz] * directions]


def _weight_gradients_avals(
    x: ShapedArray, h_0: ShapedArray, *others: ShapedArray, **_: Any
) -> list[ShapedArray]:
    gates = 4 * h_0.shape[2]
    shapes = [(x.shape[2], gates), (h_0.shape[2], gates), (gates,)]
    return [ShapedArray(shape, x.dtype) for shape in shapes] * h_0.shape[0]


def _plain(aval: ShapedArray) -> ShapedArray:
    return ShapedArray(aval.shape, aval.dtype)


def _lower_for_cpu(call: str, in_xla: Any) -> Any:
    def lower(ctx: mlir.LoweringRuleContext, *operands: Any, **options: Any) -> Any:
        module = ctx.module_context
        one_device = getattr(module.axis_context, "num_devices", None) == 1
        if one_device and not module.lowering_parameters.for_export:
            in_place = _gates_become_dz(len(operands)) if in_xla is _backward_in_xla else {}
            lowering = jax.ffi.ffi_lowering(call, operand_output_aliases=in_place)
            return lowering(ctx, *operands, reverse=options["reverse"])
        return mlir.lower_fun(in_xla, multiple_results=True)(ctx, *operands, **options)

    return lower


def _gates_become_dz(operands: int) -> dict[int, int]:
    """The operands of a backward pass that its results are written over: half the memory."""
    return {operand: 2 + k for k, operand in enumerate(range(5, operands, 1 + SAVED))}


def _in_xla_batched(in_xla: Any) -> Any:
    """Where every example has a gradient of its own: as XLA's batched products."""

    def of(_: Primitive) -> Any:
        def rule(operands: Sequence[Array], axes: Sequence[Any], **options: Any) -> Any:
            results = jax.vmap(partial(in_xla, **options), tuple(axes))(*operands)
            return results, [0] * len(results)

        return rule

    return of


def _merged(weights_every: int, weights: int) -> Any:
    """Merge a new axis into the batch; where the weights have it too, one call after the other.

    After the four operands that a pass starts with, each direction has `weights_every` of which
    the first `weights` are weights. The batch is axis 0 of `lengths`, else axis 1.
    """

    def is_weight(k: int) -> bool:
        return k >= 4 and (k - 4) % weights_every < weights

    def rule(
        primitive: Primitive, operands: Sequence[Array], axes: Sequence[Any], **options: Any
    ) -> Any:
        size = next(
            operand.shape[axis]
            for operand, axis in zip(operands, axes, strict=True)
            if axis is not None
        )
        mapped = [axis is not None for axis in axes]
        if any(mapped[k] and is_weight(k) for k in range(len(operands))):
            first = [
                jnp.moveaxis(operand, axis, 0) if there else operand
                for operand, axis, there in zip(operands, axes, mapped, strict=True)
            ]

            def call(k: Array) -> list[Array]:
                return primitive.bind(
                    *(a[k] if there else a for a, there in zip(first, mapped, strict=True)),
                    **options,
                )

            results = jax.lax.map(call, jnp.arange(size))
            return results, [0] * len(results)

        def merge(k: int) -> Array:
            operand, at = operands[k], 0 if k == 2 else 1
            if is_weight(k):
                return operand
            if mapped[k]:
                operand = jnp.moveaxis(operand, axes[k], at)
            else:
                shape = (*operand.shape[:at], size, *operand.shape[at:])
                operand = jnp.broadcast_to(jnp.expand_dims(operand, at), shape)
            return operand.reshape(*operand.shape[:at], -1, *operand.shape[at + 2 :])

        results = primitive.bind(*map(merge, range(len(operands))), **options)
        split = [r.reshape(r.shape[0], size, -1, *r.shape[2:]) for r in results]
        return split, [1] * len(split)

    return lambda primitive: partial(rule, primitive)


def _primitive(name: str, call: str, avals: Any, in_xla: Any, batch: Any) -> Primitive:
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_abstract_eval(avals)
    compiled = jax.jit(primitive.bind, static_argnames=("reverse", "save", "ragged"))

    def run_alone(*operands: Array, **options: Any) -> Any:
        with jax.disable_jit(False):  # one call is the smallest step there is
            return compiled(*operands, **options)

    primitive.def_impl(run_alone)
    batching.primitive_batchers[primitive] = batch(primitive)
    mlir.register_lowering(primitive, mlir.lower_fun(in_xla, multiple_results=True))
    mlir.register_lowering(primitive, _lower_for_cpu(call, in_xla), platform="cpu")
    return primitive


forward_p = _primitive(
    "lstm_forward", "flax_bilstm_forward", _forward_avals, _forward_in_xla, _merged(3, 3)
)
backward_p = _primitive(
    "lstm_backward",
    "flax_bilstm_backward",
    _backward_avals,
    _backward_in_xla,
    _merged(1 + SAVED, 1),
)
weight_gradients_p = _primitive(
    "lstm_weight_gradients",
    "flax_bilstm_weight_gradients",
    _weight_gradients_avals,
    _weight_gradients_in_xla,
    _in_xla_batched(_weight_gradients_in_xla),
)
