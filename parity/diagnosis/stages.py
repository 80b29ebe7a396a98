"""A stage: a step of the computation that can be checked alone, on the reference's own values.

An error at a stage is inherited, from an earlier one, or made there. To tell which, the stage gets
what the reference computed: in both frameworks it is run on the reference's values, and its
gradient is taken from the reference's cotangents. What differs then is made by the stage itself.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.judge import Judged, judge_run
from parity.report import Row
from parity.sides.side import TARGET, Arrays, Gradients, Pair, Side, cast


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
        pair: the stage in both; the reference takes all of the reference's parameters. The loss of
            both is `INNER_PRODUCT`.
        over_time: those of `reads`, and the stage's name, whose axis 1 is time.
        backwards: time runs from the last step to the first.
        parts: stages within this one, which say where in it a fault lies.
        mistakes: known mistakes, of this stage's reference.
        probed: whether the candidate's value is not what it computes in use but what a probe
            shows, which a fault may mislead; else None or how to put it to the test.
    """

    name: str
    words: str
    reads: Mapping[str, str]
    pair: Pair
    over_time: tuple[str, ...] = ()
    backwards: bool = False
    parts: "tuple[Stage, ...]" = ()
    mistakes: Callable[[], Iterator[Mistake]] = _none
    probed: bool = False


@dataclass(frozen=True)
class Alone:
    """One stage checked alone.

    Attributes:
        check: "forward" or "gradients".
        inputs: the reference's values that it read, and the cotangent as `target`.
        judged: what both sides made of them.
    """

    stage: Stage
    check: str
    dtype: str
    parameters: Arrays
    inputs: Arrays
    judged: Judged

    @property
    def failure(self) -> Row | None:
        """The first array that differs."""
        return self.judged.failure


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
    judged = judge_run(
        stage.pair, lambda side, to: run(side, check, parameters, inputs, to), dtype,
        check=check, **place,
    )  # fmt: skip
    return Alone(stage, check, dtype, parameters, inputs, judged)


def run(side: Side, check: str, parameters: Arrays, inputs: Arrays, dtype: str) -> Gradients:
    """The side's value, or its gradients with zeros for those that are None.

    A stage uses few of the parameters; the frameworks differ in whether the others' gradients are
    zeros or nothing.
    """
    if check == "forward":
        return side.forward(parameters, inputs, dtype)
    gradients = side.gradients(parameters, inputs, dtype)
    shapes = {**parameters, **inputs}
    return {n: np.zeros_like(shapes[n]) if g is None else g for n, g in gradients.items()}


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
