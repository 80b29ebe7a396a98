"""A stage: a step of the computation that can be checked alone, on the reference's own values.

An error at a stage either comes from an earlier stage or is made there. To tell which, both
frameworks run the stage on the reference's values and compute its gradient from the reference's
cotangents. Any difference is then made by the stage itself.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from parity.judge import Judged, judge_run
from parity.place import Place
from parity.results import Row
from parity.sides.side import TARGET, Arrays, Gradients, Pair, Side, cast


@dataclass(frozen=True)
class Truth:
    """What the reference computes in float64, by name: values, and the loss's gradients at them."""

    values: Arrays
    cotangents: Arrays


@dataclass(frozen=True)
class Mistake:
    """A known mistake: its words, the reference with the mistake, and the part that is wrong."""

    words: str
    side: Side
    part: str = ""


def _none() -> Iterator[Mistake]:
    return iter(())


@dataclass(frozen=True)
class Stage:
    """One stage, as two sides that compute one value from others.

    Attributes:
        name: its name in reports, and the name of its value in the `Truth`.
        words: the place in words; a time step is put in at `{t}`.
        reads: name of an input of the sides → name of the value in the `Truth`; inputs that the
            `Truth` lacks, for instance lengths, are left out.
        pair: the stage on both sides; the reference takes all parameters of the whole reference.
            The loss of both is `INNER_PRODUCT`.
        over_time: the names, among `reads` and the stage's name, of arrays whose axis 1 is time.
        backwards: whether time runs from the last step to the first.
        parts: stages within this one, which locate a fault more closely.
        mistakes: the known mistakes of this stage.
        probed: whether the candidate's value is measured by a probe, which a fault may mislead,
            rather than computed as in use.
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
        place: the place of the rows, whose check is "forward" or "gradients".
        inputs: the reference's values that the stage read, and the cotangent as `target`.
        judged: what both sides computed from them, compared.
    """

    stage: Stage
    place: Place
    parameters: Arrays
    inputs: Arrays
    judged: Judged

    @property
    def failure(self) -> Row | None:
        """The first array that differs."""
        return self.judged.failure


def alone(stage: Stage, truth: Truth, parameters: Arrays, place: Place) -> Alone | None:
    """The stage's value or gradients on the reference's values; None where no gradient reaches it.

    Args:
        stage: the stage to run.
        truth: the truth of the whole reference.
        parameters: the reference's, used by both sides, so that only code can differ.
        place: the place of the rows, whose check is "forward" or "gradients".
    """
    check, dtype = place.check, place.dtype
    reads = stage.reads.items()
    inputs = {local: truth.values[name] for local, name in reads if name in truth.values}
    if check == "gradients":
        cotangent = truth.cotangents.get(stage.name)
        if cotangent is None or not cotangent.any():
            return None
        inputs[TARGET] = cotangent
    inputs, parameters = cast(inputs, dtype), cast(parameters, dtype)
    judged = judge_run(stage.pair, lambda side, to: run(side, check, parameters, inputs, to), place)
    return Alone(stage, place, parameters, inputs, judged)


def run(side: Side, check: str, parameters: Arrays, inputs: Arrays, dtype: str) -> Gradients:
    """The side's value, or its gradients with zeros for those that are None.

    A stage uses few of the parameters; for the others one framework may return zeros and the other
    None.
    """
    if check == "forward":
        return side.forward(parameters, inputs, dtype)
    gradients = side.gradients(parameters, inputs, dtype)
    shapes = {**parameters, **inputs}
    return {n: np.zeros_like(shapes[n]) if g is None else g for n, g in gradients.items()}


def first_wrong(
    stages: tuple[Stage, ...], truth: Truth, parameters: Arrays, place: Place
) -> list[Alone]:
    """The first faulty stage, then its first faulty part, and so on inwards.

    Stages are searched in order of computation for values, and in the reverse order for gradients.
    The parts of a stage are searched in their order for both.
    """

    def search(stages: tuple[Stage, ...]) -> list[Alone]:
        for stage in stages:
            checked = alone(stage, truth, parameters, place)
            if checked is not None and checked.failure is not None:
                return [checked, *search(stage.parts)]
        return []

    return search(stages[::-1] if place.check == "gradients" else stages)
