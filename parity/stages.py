"""A stage: a step of the computation that can be checked alone, on the reference's own values.

An error at a stage is inherited, from an earlier one, or made there. To tell which, the stage gets
what the reference computed: in both frameworks it is run on the reference's values, and its
gradient is taken from the reference's cotangents. What differs then is made by the stage itself.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity import nudging
from parity.comparison import judge
from parity.losses import Loss
from parity.port import TARGET, Arrays, Gradients, Side, cast
from parity.report import Row
from parity.tolerances import TRUTH

INNER_PRODUCT = Loss(
    "inner product with a cotangent",
    lambda output, cotangent: (output * cotangent).sum(),
    lambda output, cotangent: (output * cotangent.astype(output.dtype)).sum(),
)
"""The loss of a stage's sides: its gradient is the stage's VJP of the input `target`."""


@dataclass(frozen=True)
class Truth:
    """What the reference computes in float64, by name: values, and the loss's gradients there."""

    values: Arrays
    cotangents: Arrays


@dataclass(frozen=True)
class Mistake:
    """A known mistake: what is wrong in words, the reference with it, and the part it lies in."""

    words: str
    side: Side
    part: str = ""


def _none() -> Iterator[Mistake]:
    return iter(())


@dataclass(frozen=True)
class Stage:
    """One stage, as two sides that compute one value from others.

    Attributes:
        name: what reports call it, and of the value in the `Truth`.
        words: the place as a person would say it; `{t}` is where a time step is named.
        reads: what the sides call their inputs → name of the value in the `Truth`; those that it
            does not have, lengths for instance, are left out.
        reference: the stage in the reference; it takes all of the reference's parameters.
        candidate: the same in the candidate. Both sides' loss is `INNER_PRODUCT`.
        over_time: those of `reads`, and the stage's name, whose axis 1 is time.
        backwards: time runs from the last step to the first.
        parts: stages within this one, which say where in it a fault lies.
        mistakes: known mistakes, of this stage's reference.
    """

    name: str
    words: str
    reads: Mapping[str, str]
    reference: Side
    candidate: Side
    over_time: tuple[str, ...] = ()
    backwards: bool = False
    parts: "tuple[Stage, ...]" = ()
    mistakes: Callable[[], Iterator[Mistake]] = _none


@dataclass(frozen=True)
class Anatomy:
    """A port's stages in order of computation, and how to get what they read.

    Attributes:
        output: the name, in the reference's forward pass and in the truth, of the value that
            both must agree on: else the stages describe another computation.
        truth: (parameters, inputs) → the reference in float64.
    """

    output: str
    truth: Callable[[Arrays, Arrays], Truth]
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Alone:
    """One stage checked alone.

    Attributes:
        check: "forward" or "gradients".
        inputs: the reference's values that it read, and the cotangent as `target`.
        truth, given: what the reference and the candidate made of them.
        rows: the comparison, one per array.
    """

    stage: Stage
    check: str
    dtype: str
    parameters: Arrays
    inputs: Arrays
    truth: Gradients
    given: Gradients
    rows: tuple[Row, ...]

    @property
    def failure(self) -> Row | None:
        """The first array that differs."""
        return next((row for row in self.rows if not row.passed), None)


def alone(
    stage: Stage, check: str, truth: Truth, parameters: Arrays, dtype: str, **place: Any
) -> Alone | None:
    """The stage's value or gradients on the reference's values; None where no gradient reaches it.

    Args:
        stage: which.
        check: "forward" or "gradients".
        truth: of the whole reference.
        parameters: the reference's, for both sides: what is at stake is the code.
        dtype: what the candidate computes in.
        **place: the rows' case and step.
    """
    reads = stage.reads.items()
    inputs = {local: truth.values[name] for local, name in reads if name in truth.values}
    if check == "gradients":
        cotangent = truth.cotangents.get(stage.name)
        if cotangent is None or not cotangent.any():
            return None
        inputs[TARGET] = cotangent
    inputs, parameters = cast(inputs, dtype), cast(parameters, dtype)
    expected = run(stage.reference, check, parameters, inputs, TRUTH)
    sides = nudging.runs(stage.reference, dtype)  # the cotangent is moved too
    own = [run(side, check, parameters, inputs, dtype) for side in sides]
    place = {**place, "check": check, "dtype": dtype}
    try:
        given = run(stage.candidate, check, parameters, inputs, dtype)
    except Exception as error:  # whatever the candidate's code raises is the finding
        note = f"raises {type(error).__name__}: {error}"
        row = Row(name=stage.name, passed=False, distance=float("nan"), note=note, **place)
        return Alone(stage, check, dtype, parameters, inputs, expected, {}, (row,))
    expected, given, *own = _complete(expected, given, *own)
    rows = [
        judge(value, given.get(name), [held.get(name) for held in own], name=name, **place)
        for name, value in expected.items()
    ]
    return Alone(stage, check, dtype, parameters, inputs, expected, given, tuple(rows))


def _complete(*runs: Gradients) -> list[Gradients]:
    """The runs with zeros for None where another run has an array."""
    shapes = {n: a.shape for made in runs for n, a in made.items() if a is not None}
    return [
        {n: np.zeros(shapes[n]) if a is None and n in shapes else a for n, a in made.items()}
        for made in runs
    ]


def run(side: Side, check: str, parameters: Arrays, inputs: Arrays, dtype: str) -> Gradients:
    """The side's value, or its gradients with None for those that are 0 throughout.

    A stage uses few of the parameters; the frameworks differ in whether the others' gradients are
    zeros or nothing.
    """
    if check == "forward":
        return side.forward(parameters, inputs, dtype)
    gradients = side.gradients(parameters, inputs, dtype)
    return {n: None if g is None or not np.any(g) else g for n, g in gradients.items()}


def first_wrong(
    stages: tuple[Stage, ...],
    check: str,
    truth: Truth,
    parameters: Arrays,
    dtype: str,
    **place: Any,
) -> list[Alone]:
    """The first stage that is wrong of itself, then its first wrong part, and so on inwards.

    Values are made in the stages' order, gradients in the opposite one. The parts of a stage are
    tried in their order for both.
    """

    def search(stages: tuple[Stage, ...]) -> list[Alone]:
        for stage in stages:
            checked = alone(stage, check, truth, parameters, dtype, **place)
            if checked is not None and checked.failure is not None:
                return [checked, *search(stage.parts)]
        return []

    return search(stages[::-1] if check == "gradients" else stages)
