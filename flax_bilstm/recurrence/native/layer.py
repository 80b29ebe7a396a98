"""`native`: both passes and all gradients of a layer in C++."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from flax_bilstm.recurrence import fused, scan
from flax_bilstm.recurrence.equations import State, Weights, validity
from flax_bilstm.recurrence.native import primitives
from flax_bilstm.recurrence.native.library import native_available
from flax_bilstm.recurrence.native.primitives import Call


def run_layer(
    weights: Sequence[Weights],
    x: Float[Array, "time batch in"],
    states: State,
    valid: Bool[Array, "time batch 1"] | None,
    batch_major: bool = False,
) -> tuple[Float[Array, "time batch out"], State]:
    """Both directions of a layer at once; see `recurrence.directions.run_layer`."""
    call = Call(False, batch_major)
    return _forward(tuple(weights), x, states, _lengths(x, valid), call)


def run_direction(
    weights: Weights,
    x: Float[Array, "time batch in"],
    state: State,
    valid: Bool[Array, "time batch 1"] | None,
    reverse: bool,
) -> tuple[Float[Array, "time batch out"], State]:
    """One direction over time; see `recurrence.Implementation`."""
    if not is_supported(weights, x):
        return fused.run_direction(weights, x, state, valid, reverse)
    states = jax.tree.map(lambda array: array[None], state)
    call = Call(reverse, batch_major=False)
    outputs, finals = _forward((weights,), x, states, _lengths(x, valid), call)
    return outputs, jax.tree.map(lambda array: array[0], finals)


def is_supported(weights: Weights, x: Array) -> bool:
    """Whether the library supports such a layer; all others are left to `fused`."""
    return (
        bool(native_available())
        and x.dtype in (jnp.float32, jnp.float64)
        and weights.kernel_ih.dtype == x.dtype
        and weights.kernel_hr is None
        and all(isinstance(size, int) for size in x.shape)  # known, unlike in some exports
        and jax.typeof(x).sharding.mesh.empty  # not split over devices, as far as tracing shows
        and jax.sharding.get_abstract_mesh().empty
    )


class _Residuals(NamedTuple):
    """What the backward pass needs."""

    weights: tuple[Weights, ...]
    x: Float[Array, "time batch in"]
    states: State
    lengths: Int[Array, " batch"] | None
    outputs: Float[Array, "time batch out"]
    saved: tuple[tuple[Array, ...], ...]


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _forward(
    weights: tuple[Weights, ...],
    x: Float[Array, "time batch in"],
    states: State,
    lengths: Int[Array, " batch"] | None,
    call: Call,
) -> tuple[Array, State]:
    """Outputs and final states."""
    outputs, final, _ = primitives.forward(weights, x, states, lengths, call, save=False)
    return outputs, final


def _lengths(x: Array, valid: Array | None) -> Int[Array, " batch"] | None:
    return None if valid is None else jnp.sum(valid[..., 0], axis=0, dtype=jnp.int32)


def _run_and_save(
    weights: tuple[Weights, ...], x: Array, states: State, lengths: Array | None, call: Call
) -> tuple[tuple[Array, State], _Residuals]:
    outputs, final, saved = _forward_and_saved(weights, x, states, lengths, call)
    return (outputs, final), _Residuals(weights, x, states, lengths, outputs, saved)


def _backward(call: Call, residuals: _Residuals, cotangents: tuple[Array, State]) -> Any:
    return *_pull_back(call, residuals, cotangents), None


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _pull_back(
    call: Call, residuals: _Residuals, cotangents: tuple[Array, State]
) -> tuple[tuple[Weights, ...], Array, State]:
    """The gradients of weights, x and initial states."""
    weights, x, states, lengths, outputs, saved = residuals
    d_initial, dz = primitives.backward(weights, lengths, saved, *cotangents, call)
    d_weights = primitives.weight_gradients(weights, x, states.hidden, lengths, outputs, dz, call)
    d_x = primitives.input_gradients(weights, dz, call)
    return d_weights, d_x, d_initial


# Second derivatives, in forward and in reverse mode, come from `scan` and `fused`, which JAX can
# differentiate again. Outputs and what was saved follow from the other residuals, whose tangents
# are all that count.


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def _forward_and_saved(
    weights: tuple[Weights, ...], x: Array, states: State, lengths: Array | None, call: Call
) -> tuple[Array, State, tuple[tuple[Array, ...], ...]]:
    """Outputs, final states, and what the backward pass needs."""
    return primitives.forward(weights, x, states, lengths, call, save=True)


@_forward_and_saved.defjvp
def _forward_tangents(call: Call, primals: Any, tangents: Any) -> Any:
    run = partial(_one_by_one, scan.run_direction, primals[3], call.reverse)
    _, (d_outputs, d_final) = jax.jvp(run, primals[:3], tangents[:3])
    outputs, final, saved = _forward_and_saved(*primals, call)
    return (outputs, final, saved), (d_outputs, d_final, jax.tree.map(jnp.zeros_like, saved))


@_pull_back.defjvp
def _gradient_tangents(call: Call, primals: Any, tangents: Any) -> Any:
    residuals, cotangents = primals
    d_residuals, d_cotangents = tangents
    run = partial(_one_by_one, fused.run_direction, residuals.lengths, call.reverse)

    def gradient(weights: Any, x: Array, states: State, cotangents: Any) -> Any:
        return jax.vjp(run, weights, x, states)[1](cotangents)

    _, d_gradient = jax.jvp(
        gradient, (*residuals[:3], cotangents), (*d_residuals[:3], d_cotangents)
    )
    return _pull_back(call, residuals, cotangents), d_gradient


def _one_by_one(
    run_direction: Callable[..., Any],
    lengths: Array | None,
    reverse: bool,
    weights: tuple[Weights, ...],
    x: Array,
    states: State,
) -> tuple[Array, State]:
    """The same results from another implementation, one direction after the other."""
    valid = None if lengths is None else validity(lengths, x.shape[0])
    outputs, finals = zip(
        *(
            run_direction(
                each, x, State(states.hidden[k], states.cell[k]), valid, reverse or k == 1
            )
            for k, each in enumerate(weights)
        ),
        strict=True,
    )
    return jnp.concatenate(outputs, axis=-1), jax.tree.map(lambda *a: jnp.stack(a), *finals)


_forward.defvjp(_run_and_save, _backward)
