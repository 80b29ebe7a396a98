"""A pass of a layer as a JAX primitive, and what it is lowered to.

Lowered for one CPU it is a call of the library. For other platforms, for several devices (XLA
would gather a split batch before a call to a function it does not know) and for `jax.export` it
is the loop of `fused`, which returns the same. So code that traces a program need not know where
it will run.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jaxtyping import Array

from flax_bilstm.recurrence.native import in_xla


def _lower_for_cpu(library: Any, plain: Any) -> Any:
    def lower(ctx: mlir.LoweringRuleContext, *operands: Any, **options: Any) -> Any:
        module = ctx.module_context
        one_device = getattr(module.axis_context, "num_devices", None) == 1
        here = one_device and not module.lowering_parameters.for_export
        function = library if here else plain
        return mlir.lower_fun(function, multiple_results=True)(ctx, *operands, **options)

    return lower


def any_layout(plain: Any) -> Any:
    """A function of `in_xla`, where XLA chooses how arrays lie in memory."""

    def run(*operands: Array, batch_major: bool, **options: Any) -> list[Array]:
        found: list[Array] = plain(*operands, **options)
        return found

    return run


def _in_library(
    call: str, results: Any, states_in: Sequence[int], states_out: Sequence[int], in_place: Any
) -> Any:
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

        types = swapped(results(*map(jax.typeof, operands), **options), states_out, swap_aval)
        of_library = jax.ffi.ffi_call(call, types, input_output_aliases=in_place(len(operands)))
        found = of_library(
            *swapped(operands, states_in, swap_array), reverse=reverse, batch_major=batch_major
        )
        return swapped(found, states_out, swap_array)

    return run


def _nothing_in_place(operands: int) -> dict[int, int]:
    return {}


def gates_become_dz(operands: int) -> dict[int, int]:
    """Backward operands whose memory the results are written to: this halves the memory."""
    return {operand: 2 + k for k, operand in enumerate(range(5, operands, 1 + in_xla.SAVED))}


def primitive_of(
    results: Any,
    plain: Any,
    *,
    states_in: Sequence[int] = (),
    states_out: Sequence[int] = (),
    in_place: Any = _nothing_in_place,
) -> Primitive:
    """The primitive of a pass, which has the name of its function in `results`.

    Args:
        results: its operands' types and options → its results' types.
        plain: the same computation in XLA, from `in_xla`.
        states_in: the positions of states among the operands.
        states_out: the positions of states among the results.
        in_place: the number of operands → operands that become results, by their positions.
    """
    name = results.__name__
    primitive = Primitive(f"lstm_{name}")
    primitive.multiple_results = True
    primitive.def_abstract_eval(results)
    static = ("reverse", "batch_major", "save", "ragged")
    compiled = jax.jit(primitive.bind, static_argnames=static)

    def run_alone(*operands: Array, **options: Any) -> Any:
        with jax.disable_jit(False):  # one call is the smallest unit anyway
            return compiled(*operands, **options)

    primitive.def_impl(run_alone)
    library = _in_library(f"flax_bilstm_{name}", results, states_in, states_out, in_place)
    plain = any_layout(plain)
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=True))
    mlir.register_lowering(primitive, _lower_for_cpu(library, plain), platform="cpu")
    return primitive
