"""One direction's arguments, and which implementations take them, for the tests of them all."""

import contextlib

import jax.numpy as jnp
import numpy as np
import pytest

from flax_bilstm.recurrence import IMPLEMENTATIONS, fused
from flax_bilstm.recurrence.equations import State, Weights, accumulation_dtype, validity

TIME, INPUTS, HIDDEN = 6, 3, 4
BELOW, FROM = fused.HOIST_BELOW_BATCH - 1, fused.HOIST_BELOW_BATCH

OTHERS = [name for name in IMPLEMENTATIONS if name != "scan"]

others = pytest.mark.parametrize("implementation", OTHERS)
every = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
reversed_or_not = pytest.mark.parametrize("reverse", [False, True])
PROJECTED_OR_NOT = [  # batch, size of the projection, implementations: native has no projection
    (2, 2, [name for name in IMPLEMENTATIONS if name != "native"]),
    (FROM, 2, ["fused"]),
    (2, 0, ["native"]),
]


@contextlib.contextmanager
def naming(implementation):
    """A failure within says which implementation it is of."""
    try:
        yield
    except AssertionError as error:
        error.add_note(f"with {implementation}")
        raise


def case(dtype, batch=2, bias=True, proj=0, lengths=True, time=TIME, seed=0):
    """Weights, x, initial state and valid, of float64 numbers rounded to dtype."""
    rng = np.random.default_rng(seed)
    out, wide = proj or HIDDEN, accumulation_dtype(jnp.dtype(dtype))

    def normal(*shape, dtype=dtype):
        return jnp.asarray(rng.normal(size=shape) / 2, dtype)

    weights = Weights(
        normal(INPUTS, 4 * HIDDEN),
        normal(out, 4 * HIDDEN),
        normal(4 * HIDDEN, dtype=wide) if bias else None,
        normal(4 * HIDDEN, dtype=wide) if bias else None,
        normal(HIDDEN, proj) if proj else None,
    )
    state = State(normal(batch, out), normal(batch, HIDDEN, dtype=wide))
    valid = validity(jnp.asarray(rng.integers(1, time + 1, batch)), time) if lengths else None
    x = normal(time, batch, INPUTS)
    return weights, x if valid is None else jnp.where(valid, x, jnp.zeros_like(x)), state, valid
