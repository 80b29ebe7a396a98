"""The passes of a layer as JAX primitives: their results, batching and lowering.

Lowered for one CPU they are a call of the library. For other platforms, for several devices (XLA
would gather a split batch before a call to a function it does not know) and for `jax.export` they
are the loops of `fused`, which return the same. So code that traces a program need not know where
it will run.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array, Float, Int

from flax_bilstm.recurrence.equations import State, Weights
from flax_bilstm.recurrence.native import in_xla


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
    directions, _batch, hidden = h_0.shape
    shapes = [(x.shape[2], 4 * hidden), (hidden, 4 * hidden), (4 * hidden,)]
    return [ShapedArray(shape, x.dtype) for shape in shapes * directions]


def _input_gradients_avals(
    dz: ShapedArray, kernel_ih: ShapedArray, *others: ShapedArray, **_: Any
) -> list[ShapedArray]:
    return [ShapedArray((*dz.shape[:2], kernel_ih.shape[0]), dz.dtype)]


def _plain(aval: ShapedArray) -> ShapedArray:
    return ShapedArray(aval.shape, aval.dtype)


def _lower_for_cpu(library: Any, plain: Any) -> Any:
    def lower(ctx: mlir.LoweringRuleContext, *operands: Any, **options: Any) -> Any:
        module = ctx.module_context
        one_device = getattr(module.axis_context, "num_devices", None) == 1
        here = one_device and not module.lowering_parameters.for_export
        function = library if here else plain
        return mlir.lower_fun(function, multiple_results=True)(ctx, *operands, **options)

    return lower


def _any_layout(plain: Any) -> Any:
    """A function of `in_xla`, where XLA chooses how arrays lie in memory."""

    def run(*operands: Array, batch_major: bool, **options: Any) -> list[Array]:
        results: list[Array] = plain(*operands, **options)
        return results

    return run


def _in_library(call: str, avals: Any, states_in: Any, states_out: Any, in_place: Any) -> Any:
    """The call of the library. A batch-major layer's arrays over time, all of three axes but the
    states, are (batch, time, ·) to it: XLA removes a transpose that undoes another one."""

    def run(*operands: Array, reverse: bool, batch_major: bool, **options: Any) -> list[Array]:
        def swapped(arrays: Sequence[Any], states: Sequence[int], swap: Any) -> list[Any]:
            return [
                swap(each) if batch_major and each.ndim == 3 and k not in states else each
                for k, each in enumerate(arrays)
            ]

        def swap_array(array: Array) -> Array:
            return jnp.swapaxes(array, 0, 1)

        def swap_aval(aval: ShapedArray) -> ShapedArray:
            return ShapedArray((aval.shape[1], aval.shape[0], aval.shape[2]), aval.dtype)

        results = swapped(avals(*map(jax.typeof, operands), **options), states_out, swap_aval)
        of_library = jax.ffi.ffi_call(call, results, input_output_aliases=in_place(len(operands)))
        found = of_library(
            *swapped(operands, states_in, swap_array), reverse=reverse, batch_major=batch_major
        )
        return swapped(found, states_out, swap_array)

    return run


def _nothing_in_place(operands: int) -> dict[int, int]:
    return {}


def _gates_become_dz(operands: int) -> dict[int, int]:
    """Backward operands whose memory the results are written to: this halves the memory."""
    return {operand: 2 + k for k, operand in enumerate(range(5, operands, 1 + in_xla.SAVED))}


def _merge(primitive: Primitive, weights_every: int, weights: int) -> Any:
    """Batch rule: merge a new axis into the batch; if the weights have it too, call one by one.

    The first four operands are not per direction. Then each direction has `weights_every` operands,
    of which the first `weights` are weights. The batch is axis 0 of `lengths`, otherwise axis 1.
    """

    def is_weight(k: int) -> bool:
        return k >= 4 and (k - 4) % weights_every < weights

    def rule(operands: Sequence[Array], axes: Sequence[Any], **options: Any) -> Any:
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

    return rule


def _one_each(plain: Any) -> Any:
    """Batch rule for sums over the batch, which a new axis cannot be merged into: vmap in XLA."""

    def rule(operands: Sequence[Array], axes: Sequence[Any], **options: Any) -> Any:
        results = jax.vmap(partial(plain, **options), in_axes=tuple(axes))(*operands)
        return results, [0] * len(results)

    return rule


def _primitive(
    name: str,
    avals: Any,
    plain: Any,
    states_in: Any,
    states_out: Any,
    in_place: Any = _nothing_in_place,
) -> Primitive:
    """The primitive lstm_`name`.

    Args:
        avals: its operands' types and options → its results' types.
        plain: the same computation in XLA.
        states_in: the positions of states among the operands.
        states_out: the positions of states among the results.
        in_place: the number of operands → operands that become results, by their positions.
    """
    primitive = Primitive(f"lstm_{name}")
    primitive.multiple_results = True
    primitive.def_abstract_eval(avals)
    static = ("reverse", "batch_major", "save", "ragged")
    compiled = jax.jit(primitive.bind, static_argnames=static)

    def run_alone(*operands: Array, **options: Any) -> Any:
        with jax.disable_jit(False):  # one call is the smallest unit anyway
            return compiled(*operands, **options)

    primitive.def_impl(run_alone)
    library = _in_library(f"flax_bilstm_{name}", avals, states_in, states_out, in_place)
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=True))
    mlir.register_lowering(primitive, _lower_for_cpu(library, plain), platform="cpu")
    return primitive


_forward = _any_layout(in_xla.forward)
_backward = _any_layout(in_xla.backward)
_weight_gradients = _any_layout(in_xla.weight_gradients)
_input_gradients = _any_layout(in_xla.input_gradients)

forward_p = _primitive("forward", _forward_avals, _forward, (1, 3), (1, 2))
backward_p = _primitive("backward", _backward_avals, _backward, (1, 3), (0, 1), _gates_become_dz)
weight_gradients_p = _primitive(
    "weight_gradients", _weight_gradients_avals, _weight_gradients, (1,), ()
)
input_gradients_p = _primitive("input_gradients", _input_gradients_avals, _input_gradients, (), ())
batching.primitive_batchers[forward_p] = _merge(forward_p, 3, 3)
batching.primitive_batchers[backward_p] = _merge(backward_p, 1 + in_xla.SAVED, 1)
batching.primitive_batchers[weight_gradients_p] = _one_each(_weight_gradients)
batching.primitive_batchers[input_gradients_p] = _one_each(_input_gradients)
