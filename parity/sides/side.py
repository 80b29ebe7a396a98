"""The two sides that parity compares, each a program with parameters that computes named arrays.

A side takes parameters and inputs in any floating dtype, and the name of the dtype to compute in
("float64", "float32" or "bfloat16"). It never changes its arguments. `TorchSide` and `NnxSide`
are the sides of models; a side of another kind is another subclass.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import jax.numpy as jnp
import numpy as np

from parity.sides.flax_masks import Drawn
from parity.sides.optimizers import Optimizer
from parity.sides.settings import Setting

Arrays = Mapping[str, np.ndarray]
"""Arrays by name; where order matters, in order of computation."""

Gradients = Mapping[str, np.ndarray | None]
"""Gradients by name; None for a parameter that the computation never used."""

TARGET = "target"
"""The name of the input that the loss compares the output with."""


AFTER = " after"
"""What follows the name of an array as a run leaves it."""


class Later(Mapping[str, Any]):
    """A mapping that is made when it is first read."""

    def __init__(self, make: Callable[[], Mapping[str, Any]]) -> None:
        self._make = make

    @cached_property
    def _made(self) -> Mapping[str, Any]:
        return self._make()

    def __getitem__(self, name: str) -> Any:
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


@dataclass(frozen=True)
class Step:
    """The result of one training step, which may change when the side makes its next one.

    Attributes:
        loss: the loss before the step, a scalar.
        parameters: every parameter after the step, under the reference's names and layout.
        moments: the optimizer's moments after the step, `<parameter>.<moment>`; None if the
            optimizer has none for that parameter.
    """

    loss: Any
    parameters: Arrays
    moments: Gradients

    def named(self) -> dict[str, np.ndarray | None]:
        """All arrays under one set of names, in order of computation."""
        rest = {**self.moments, **self.parameters}
        name = "the loss" if "loss" in rest else "loss"
        return {name: np.asarray(self.loss), **rest}

    def kept(self) -> "Step":
        """A copy, which never changes."""
        moments = {n: None if a is None else a.copy() for n, a in self.moments.items()}
        return Step(self.loss, {n: a.copy() for n, a in self.parameters.items()}, moments)


class Side(ABC):
    """One of the two programs that are compared.

    Args:
        name: its name in reports.
        parameters: its parameters, under the reference's names and layout.
    """

    output = "output"
    """The name of its output, which several arrays follow: `output.logits`."""

    buffers: tuple[str, ...] = ()
    """Which of its parameters no optimizer trains: those that are frozen, too."""

    masks = 0
    """How many masks it draws in a run in training mode, if that is known."""

    opens = False
    """Whether it can be run stage by stage, with `local` and `local_gradients`."""

    def __init__(self, name: str, parameters: Arrays) -> None:
        self.name = name
        self.parameters = parameters

    def holding(self, parameters: Arrays) -> Self:
        """The same program with other parameters; nothing is compiled again."""
        other = copy.copy(self)
        other.parameters = parameters
        return other

    def prepare(self, inputs: Arrays, dtype: str, optimizers: Sequence[Optimizer] = ()) -> None:
        """Start what takes time before the side can run, such as compiling, in other threads."""
        return

    @abstractmethod
    def forward(self, parameters: Arrays, inputs: Arrays, dtype: str) -> Arrays:
        """Every stage by name, in order of computation."""

    @abstractmethod
    def gradients(self, parameters: Arrays, inputs: Arrays, dtype: str) -> Gradients:
        """The loss's gradient at every parameter and floating input, in backward order."""

    @abstractmethod
    def train(
        self, parameters: Arrays, batches: Sequence[Arrays], optimizer: Optimizer, dtype: str
    ) -> Iterator[Step]:
        """One step for each batch."""

    def local(self, parameters: Arrays, inputs: Arrays, values: Arrays, dtype: str) -> Arrays:
        """The stages of `forward`, each computed from the `values` of the stages before it.

        So no earlier error is inherited. Empty if the side cannot be run this way.
        """
        return {}

    def cotangents(self, parameters: Arrays, inputs: Arrays, dtype: str) -> Arrays:
        """The loss's gradient at every stage. Empty if the side cannot compute it."""
        return {}

    def local_gradients(
        self, parameters: Arrays, inputs: Arrays, values: Arrays, cotangents: Arrays, dtype: str
    ) -> Gradients:
        """The gradients at stages and parameters, each computed from the `cotangents` after it.

        Every stage has its value from `values`. Empty if the side cannot be run this way.
        """
        return {}

    def in_training(self, by: str, parameters: Arrays, inputs: Arrays, dtype: str) -> Gradients:
        """A run in training mode, with fixed numbers for Dropout (`parity.sides.fixed_masks`).

        The output, then the gradients, which mean nothing if the numbers depend on values, then
        what the run leaves in every parameter and buffer, as `<name> after`. Empty if the side
        cannot be run this way.
        """
        return {}

    def drawn_keys(self, parameters: Arrays, inputs: Arrays, dtype: str) -> list[list[Drawn]]:
        """What Dropout draws in each of several runs, one after the other; empty if not known."""
        return []

    def update(
        self, parameters: Arrays, gradients: Sequence[Gradients], optimizer: Optimizer, dtype: str
    ) -> Iterator[Step]:
        """Train on these gradients, one step for each, without a loss; empty if the side cannot."""
        return iter(())


@dataclass(frozen=True)
class Pair:
    """A reference, and the candidate that should compute the same.

    Attributes:
        reference: the side to be matched.
        candidate: the side that is judged.
        loss: the name of the loss in reports.
        notes: what the comparison cannot see, for the report.
        fresh: the names of each array that is still 0 or 1 (`parity.sides.fresh`).
        settings: what only training mode uses; compared if anything is trained.
        only: what of training mode is to be compared, by `Side.in_training`, in words; it is if
            anything is trained.
        known: known differences, a pattern of rows (`Place.matches`) → the reason.
    """

    reference: Side
    candidate: Side
    loss: str = "loss"
    notes: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()
    only: str = ""
    fresh: tuple[tuple[str, ...], ...] = ()
    known: Mapping[str, str] = field(default_factory=dict)

    def holding(self, reference: Arrays, candidate: Arrays) -> Self:
        """The same two programs with other parameters."""
        return replace(
            self,
            reference=self.reference.holding(reference),
            candidate=self.candidate.holding(candidate),
        )


def outputs(names: Iterable[str], output: str) -> list[str]:
    """The names that are those of the output's arrays."""
    return [name for name in names if name == output or name.startswith(f"{output}.")]


def real(*arrays: Any) -> list[Any]:
    """The arrays; if any is complex, all of them with real and imaginary part on a last axis."""
    if not any(array is not None and array.dtype.kind == "c" for array in arrays):
        return list(arrays)
    return [None if a is None else np.stack((a.real, a.imag), -1) for a in arrays]


def floating(array: Any) -> bool:
    """Whether the dtype of an array, of NumPy or JAX, is a floating one, bfloat16 among them."""
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def whole(array: np.ndarray, epsilon: float) -> np.ndarray:
    """Which elements are whole numbers that are hardly so by chance, in a dtype of this ε."""
    with np.errstate(invalid="ignore"):
        return (array == np.rint(array)) & (np.abs(array) * epsilon <= 0.01)


def cast(arrays: Arrays, dtype: str) -> dict[str, np.ndarray]:
    """The floating arrays in another dtype; integers (lengths, classes) stay as they are.

    Complex ones are in complex128 for float64, else in complex64.
    """

    def converted(array: np.ndarray) -> np.ndarray:
        if array.dtype.kind == "c":
            return array.astype("complex128" if dtype == "float64" else "complex64", copy=False)
        return array.astype(dtype, copy=False) if floating(array) else array

    with np.errstate(over="ignore"):  # a mask may have the smallest number of another dtype
        return {name: converted(array) for name, array in arrays.items()}


def beside(taken: Collection[str], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What inputs have, under names that are not taken: a parameter may be called like an input."""
    return {f"input {n}" if n in taken else n: value for n, value in inputs.items()}


def without_target(inputs: Arrays) -> dict[str, np.ndarray]:
    """The inputs that a model reads: all but the target, which is for the loss."""
    return {name: array for name, array in inputs.items() if name != TARGET}


def differentiable(inputs: Arrays) -> list[str]:
    """The names of the inputs that have a gradient: floating, not the target, and no mask."""
    read = without_target(inputs).items()
    return [name for name, array in read if floating(array) and not is_mask(array)]


def is_mask(array: np.ndarray) -> bool:
    """Whether the array has nothing but zeros and ones, so that other values have no meaning."""
    return bool(array.size and ((array == 0) | (array == 1)).all())
