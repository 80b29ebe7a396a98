"""What parity compares, described as functions of named NumPy arrays.

The harness knows nothing of any network: a port is two sides, each side a few functions, and
everything a check does is compare the arrays that the two return under the same names. See
`parity.bilstm` for the description of one network, and `parity.torch_side` and
`parity.nnx_side` for the functions of any `torch.nn.Module` and any `nnx.Module`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from parity.optimizers import Optimizer

if TYPE_CHECKING:
    from parity.stages import Anatomy

Arrays = Mapping[str, np.ndarray]
"""Arrays by name; where it matters, in the order in which they are computed."""

Gradients = Mapping[str, np.ndarray | None]
"""Gradients by name; None for a parameter that the computation never used."""

Local = Callable[[Arrays, Arrays, Arrays, str], Arrays]
"""(parameters, inputs, given, dtype) → stages: see `Side.local`."""

TARGET = "target"
"""The name, among the inputs, of what the loss compares the output with."""


@dataclass(frozen=True)
class Step:
    """What one training step leaves behind.

    Attributes:
        loss: the loss before the step, a scalar.
        parameters: every parameter after the step, under the reference's names and layout.
        moments: the optimizer's memory after the step, `<parameter>.<moment>`; None where the
            optimizer holds nothing for that parameter.
    """

    loss: np.ndarray
    parameters: Arrays
    moments: Gradients

    def named(self) -> dict[str, np.ndarray | None]:
        """All of it under one set of names, in the order in which a step computes it."""
        return {"loss": self.loss, **self.moments, **self.parameters}


@dataclass(frozen=True)
class Side:
    """One of the two programs under comparison.

    Every function takes parameters and inputs in any floating dtype, and the name of the dtype
    to compute in ("float64", "float32" or "bfloat16"); none may change what it is given.

    Attributes:
        name: what reports call this side.
        parameters: what this side holds now, under the reference's names and layout.
        forward: (parameters, inputs, dtype) → every stage by name, in order of computation.
        gradients: (parameters, inputs, dtype) → the loss's gradient for every parameter and
            every floating input but the target, in backward order.
        train: (parameters, batches, optimizer, dtype) → one `Step` per batch.
        local: (parameters, inputs, given, dtype) → the same stages as `forward`, but each computed
            from the given values of those before it, so that no error is inherited. None where
            the side cannot be run so.
        update: (parameters, one step's gradients each, optimizer, dtype) → one `Step` per
            gradients: training on given gradients, without a loss. None where it cannot be.
    """

    name: str
    parameters: Arrays
    forward: Callable[[Arrays, Arrays, str], Arrays]
    gradients: Callable[[Arrays, Arrays, str], Gradients]
    train: Callable[[Arrays, Sequence[Arrays], Optimizer, str], Iterator[Step]]
    local: Local | None = None
    update: Callable[[Arrays, Sequence[Gradients], Optimizer, str], Iterator[Step]] | None = None


@dataclass(frozen=True)
class Port:
    """A reference, and the candidate that claims to compute the same.

    Attributes:
        reference: the side to be matched.
        candidate: the side that is judged.
        anatomy: makes the stages by which a fault is found; called when a check has failed.
        loss: what reports call the loss that is descended.
    """

    reference: Side
    candidate: Side
    anatomy: "Callable[[], Anatomy | None]" = lambda: None
    loss: str = "loss"

    def holding(self, reference: Arrays, candidate: Arrays) -> "Port":
        """The same two programs holding other parameters: nothing is compiled again."""
        return replace(
            self,
            reference=replace(self.reference, parameters=reference),
            candidate=replace(self.candidate, parameters=candidate),
        )


def floating(array: np.ndarray) -> bool:
    """Whether the dtype is a floating one, bfloat16 among them."""
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def cast(arrays: Arrays, dtype: str) -> dict[str, np.ndarray]:
    """The floating arrays in another dtype; integers (lengths, classes) stay as they are."""
    return {n: a.astype(dtype) if floating(a) else a for n, a in arrays.items()}


def differentiable(inputs: Arrays) -> list[str]:
    """The names of the inputs that have a gradient: floating, and not the target."""
    return [name for name, array in inputs.items() if name != TARGET and floating(array)]
