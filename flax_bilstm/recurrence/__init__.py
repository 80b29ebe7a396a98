"""The implementations of one direction of the recurrence, one file each, with one signature.

All give the same numbers and gradients; they differ in speed, in memory and in the JAX
transformations that they support. `implementation=` names one; None is `native`, the fastest on
CPUs, and the same as `fused` on other platforms or if the C++ library is missing.
"""

from typing import Protocol, runtime_checkable

import jax
from jaxtyping import Array, Bool, Float

from flax_bilstm.recurrence import checkpointed, fused, scan
from flax_bilstm.recurrence.equations import State, Weights
from flax_bilstm.recurrence.native import layer as native


@runtime_checkable
class Implementation(Protocol):
    """Runs one direction over time.

    `x` (time, batch, in) is finite wherever `valid` is False. `state` is the initial state.
    `valid` (time, batch, 1) marks the steps that belong to their sequence (None: all do): in the
    padding the state is carried over unchanged and the output is 0. So the reverse direction
    starts at the end of each sequence, and no sequence has to be flipped or gathered. With
    `reverse` the steps run from the last to the first. The outputs are in the order of `x`; the
    final state is the last one computed.
    """

    def __call__(
        self,
        weights: Weights,
        x: Float[Array, "time batch in"],
        state: State,
        valid: Bool[Array, "time batch 1"] | None,
        reverse: bool,
    ) -> tuple[Float[Array, "time batch out"], State]:
        """Outputs in the order of x, and the final state."""
        ...


# Compiled, so that a model called outside of jit keeps its compiled loops between calls: a bare
# `lax.scan` there is traced and compiled again at every call.
IMPLEMENTATIONS: dict[str, Implementation] = {
    "scan": jax.jit(scan.run_direction, static_argnames="reverse"),
    "fused": jax.jit(fused.run_direction, static_argnames="reverse"),
    "checkpointed": jax.jit(checkpointed.run_direction, static_argnames="reverse"),
    "native": jax.jit(native.run_direction, static_argnames="reverse"),
}
DEFAULT = "native"


def resolve(name: str | Implementation | None) -> Implementation:
    """The implementation called `name`, or the default for None; a callable is returned as it is.

    Raises:
        ValueError: no implementation has that name.
    """
    if callable(name):
        return name
    chosen = DEFAULT if name is None else name
    if not isinstance(chosen, str) or chosen not in IMPLEMENTATIONS:
        got = repr(name) if isinstance(name, str) else type(name).__name__
        raise ValueError(
            f"implementation: expected None or one of {sorted(IMPLEMENTATIONS)}, got {got}."
        )
    return IMPLEMENTATIONS[chosen]
