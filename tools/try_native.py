"""Run one LSTM in C++, forward and backward: the test of each wheel that is built.

Exits with status 1, and the reason, if the library is not available or its numbers differ from
those of the plain loop.
"""

import sys

import jax
import numpy as np
from flax import nnx

import flax_bilstm as fb


def main() -> None:
    """See above."""
    found = fb.native_available()
    print(f"native_available: {found.available}, {found.reason}")
    if not found:
        sys.exit(1)
    x = np.random.default_rng(0).normal(size=(4, 7, 3)).astype(np.float32)

    def loss(lstm: fb.LSTM, x: jax.Array) -> jax.Array:
        return (lstm(x)[0] ** 2).sum()

    actual, expected = (
        nnx.jit(nnx.value_and_grad(loss, argnums=(0, 1)))(
            fb.LSTM(3, 20, bidirectional=True, implementation=name, rngs=nnx.Rngs(0)), x
        )
        for name in ("native", "scan")
    )
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    main()
