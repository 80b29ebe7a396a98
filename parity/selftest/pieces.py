"""Faulty pieces of the model, in JAX from scratch: weights, cells, slopes, precisions, attention.

None of this shares code with `parity.diagnosis.mistakes`, which recognises the faults.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from flax_bilstm.recurrence.equations import State, Weights


def gate_order(order: Sequence[int]) -> Callable[[Weights], Weights]:
    """Puts the blocks of the gates in another order."""

    def reorder(array: Array | None) -> Array | None:
        if array is None:
            return None
        parts = jnp.split(array, 4, axis=-1)
        return jnp.concatenate([parts[i] for i in order], axis=-1)

    stacked = ("kernel_ih", "kernel_hh", "bias_ih", "bias_hh")

    def apply(w: Weights) -> Weights:
        changes: dict[str, Any] = {name: reorder(getattr(w, name)) for name in stacked}
        return w._replace(**changes)

    return apply


def turned_blocks(w: Weights) -> Weights:
    """Each gate's hidden-to-hidden matrix transposed."""
    turned = [part.T for part in jnp.split(w.kernel_hh, 4, axis=-1)]
    return w._replace(kernel_hh=jnp.concatenate(turned, axis=-1))


def multiplied(name: str, factor: float) -> Callable[[Weights], Weights]:
    """Multiplies one of the weights by a number."""
    return lambda w: w._replace(**{name: factor * getattr(w, name)})


def stopped(*names: str) -> Callable[[Weights], Weights]:
    """Stops the gradient at these weights."""
    return lambda w: w._replace(**{n: jax.lax.stop_gradient(getattr(w, n)) for n in names})


def cell(
    sigmoid: Callable[[Array], Array] = jax.nn.sigmoid,
    candidate: Callable[[Array], Array] = jnp.tanh,
    squash: Callable[[Array], Array] = jnp.tanh,
    forget: Callable[[Array], Array] | None = None,
    combine: Callable[..., Array] = lambda i, f, g, c: f * c + i * g,
    enter: Callable[[State], State] = lambda state: state,
    shown: Callable[[Array, Array], Array] = lambda new, old: new,
) -> Callable[[Weights, State, Array], State]:
    """One step of the LSTM, with an argument for each fault."""

    def step(w: Weights, state: State, x: Array) -> State:
        state = enter(state)
        assert w.bias_ih is not None
        assert w.bias_hh is not None
        bias = w.bias_ih + w.bias_hh
        z = x @ w.kernel_ih + state.hidden @ w.kernel_hh + bias[None]
        i, f, g, o = jnp.split(z, 4, axis=-1)
        new = combine(sigmoid(i), (forget or sigmoid)(f), candidate(g), state.cell)
        return State(sigmoid(o) * squash(shown(new, state.cell)), new)

    return step


def with_slope(
    function: Callable[[Array], Array], slope: Callable[[Array], Array]
) -> Callable[[Array], Array]:
    """The function with another derivative: `slope`, a function of its argument."""

    @jax.custom_vjp
    def faulty(z: Array) -> Array:
        return function(z)

    faulty.defvjp(lambda z: (function(z), z), lambda z, cotangent: (cotangent * slope(z),))
    return faulty


def scaled_slope(factor: float) -> Callable[[Array], Array]:
    """The identity, with its gradient multiplied by the factor."""
    return with_slope(lambda z: z, lambda z: jnp.full_like(z, factor))


def hard(z: Array) -> Array:
    """The hard sigmoid of TensorFlow 1 and Keras 2."""
    return jnp.clip(0.2 * z + 0.5, 0, 1)


def exponential_tanh(z: Array) -> Array:
    """tanh by its textbook formula: not finite where exp(2z) overflows."""
    return (jnp.exp(2 * z) - 1) / (jnp.exp(2 * z) + 1)


def exponential_sigmoid(z: Array) -> Array:
    """σ with a derivative that is not finite where exp(−z) overflows."""
    return with_slope(jax.nn.sigmoid, lambda z: jnp.exp(-z) / (1 + jnp.exp(-z)) ** 2)(z)


def pade(z: Array) -> Array:
    """tanh as a fraction of polynomials, accurate only for small arguments."""
    return z * (27 + z**2) / (27 + 9 * z**2)


def tanh_of_norm(c: Array) -> Array:
    """tanh of what LayerNorm makes of the cell state."""
    centred = c - c.mean(-1, keepdims=True)
    return jnp.tanh(centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5))


def peephole(w: Weights, state: State, x: Array) -> State:
    """A step whose input gate also reads the old cell state (Gers and Schmidhuber 2000)."""
    assert w.bias_ih is not None
    assert w.bias_hh is not None
    z = x @ w.kernel_ih + state.hidden @ w.kernel_hh + (w.bias_ih + w.bias_hh)[None]
    i, f, g, o = jnp.split(z, 4, axis=-1)
    new = jax.nn.sigmoid(f) * state.cell + jax.nn.sigmoid(i + 0.3 * state.cell) * jnp.tanh(g)
    return State(jax.nn.sigmoid(o) * jnp.tanh(new), new)


def only_float32(change: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Changes float32 arrays and leaves float64 arrays as they are."""
    return lambda array: change(array) if array.dtype == jnp.float32 else array


def tf32(array: Array) -> Array:
    """Rounded to TF32: 10 bits of mantissa behind the leading one."""
    return jax.lax.reduce_precision(array, 8, 10)


def bfloat16(array: Array) -> Array:
    """Rounded to bfloat16."""
    return jax.lax.reduce_precision(array, 8, 7)


def float32(array: Array) -> Array:
    """Rounded to float32, in the array's dtype."""
    return jax.lax.reduce_precision(array, 8, 23)


def attend(
    scores: Callable[[Array], Array] = lambda s: s,
    weigh: Callable[[Array], Array] = lambda s: jax.nn.softmax(s, axis=-1),
    query: int = -1,
    values: Callable[[Array], Array] = lambda y: y,
    masked: bool = True,
    last: Callable[[Array], Array] = lambda lengths: lengths - 1,
) -> Callable[..., tuple[Array, Array]]:
    """The last query's attention, with an argument for each fault."""

    def fault(real: Any, y: Array, lengths: Array | None) -> tuple[Array, Array]:
        asked = y[:, query]
        if lengths is not None:
            asked = jnp.take_along_axis(y, last(lengths)[:, None, None], axis=1)[:, 0]
        found = scores(jnp.einsum("bf,btf->bt", asked, y))
        if lengths is not None and masked:
            own = jnp.arange(y.shape[1])[None] < lengths[:, None]
            found = jnp.where(own, found, -jnp.inf)
        weights = weigh(found)
        return jnp.einsum("bt,btf->bf", weights, values(y)), weights

    return fault


def over_queries(real: Any, y: Array, lengths: Array | None) -> tuple[Array, Array]:
    """Attention whose softmax runs over the wrong axis."""
    weights = jax.nn.softmax(jnp.einsum("bqf,btf->bqt", y, y), axis=1)[:, -1]
    return jnp.einsum("bt,btf->bf", weights, y), weights
