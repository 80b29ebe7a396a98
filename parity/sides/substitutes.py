"""Values that take the place of what the stages of a traced Flax module compute."""

from typing import Any

import jax
import jax.numpy as jnp
from flax.nnx.tracers import current_jax_trace

from parity.sides.intercept import Taps
from parity.sides.side import floating
from parity.sides.variables import Named


def substituting(given: Named, forced: Any, chosen: frozenset[str] | None) -> Taps:
    """Taps for the JAX program that is being traced now.

    Args:
        given: the substitute for each stage; 0 unless stages are forced, so that the gradient at
            it is the gradient at the stage.
        forced: a boolean scalar: whether the run continues with the substitutes.
        chosen: the stages to collect; None for all.
    """
    outermost = current_jax_trace()

    def substitute(name: str, value: jax.Array) -> jax.Array:
        stand_in = given.get(name)
        if stand_in is None or stand_in.shape != value.shape:
            return value
        if not floating(value):
            return jnp.where(forced, stand_in.astype(value.dtype), value)
        # One sum for both cases: without forcing, the substitute is 0.
        own = jnp.where(forced, jnp.zeros_like(value), value)
        return stand_in.astype(value.dtype) + own

    return Taps(substitute, chosen, here=lambda: current_jax_trace() == outermost)
