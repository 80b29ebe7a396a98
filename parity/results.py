"""What a check found: rows in order of computation, and what follows from them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any


@dataclass(frozen=True)
class Case:
    """The network and the inputs that are checked.

    Attributes:
        what: the kind of the case; cases of one kind are summarized together.
        which: the one of its kind, for instance its sizes and its seed.
    """

    what: str = ""
    which: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.what, self.which)))


ONE_CASE = Case()
"""The case of a check that has no other."""


@dataclass(frozen=True)
class Place:
    """What is compared.

    Attributes:
        case: the network and its inputs.
        check: "parameters", "inputs", "local" (every stage computed from the reference's values),
            "forward", "gradients", "training", "update" (the optimizer alone) or "predictions".
        dtype: the dtype that both sides compute in; "" if the check has none.
        name: the stage, parameter or moment.
        step: in training, the step, from 1.
        optimizer: in training and updates, the optimizer's name.
        explains: whether the row explains a failed check: it is its first wrong stage.
    """

    case: Case = ONE_CASE
    check: str = ""
    dtype: str = ""
    name: str = ""
    step: int | None = None
    optimizer: str = ""
    explains: bool = False

    @property
    def group(self) -> "Place":
        """The place without name and step: all of one check in one dtype."""
        return Place(
            self.case, self.check, self.dtype, optimizer=self.optimizer, explains=self.explains
        )

    @property
    def check_title(self) -> str:
        """The check in words."""
        first = "first wrong stage" if self.explains else ""
        return ", ".join(filter(None, (first, self.check, self.optimizer)))

    @property
    def title(self) -> str:
        """Case, check, dtype and step in words."""
        step = "" if self.step is None else f"step {self.step}"
        return ", ".join(filter(None, (str(self.case), self.check_title, self.dtype, step)))


@dataclass(frozen=True, kw_only=True)
class Row(Place):
    """One named array of the candidate against the truth (the reference in float64).

    In training, it is the first step that fails, or the one nearest to its bound.

    Attributes:
        passed: whether the distance is within the bound, and everything finite.
        distance: max |candidate − truth| over the elements, in the array's own unit.
        reference_distance: the same for the reference itself in that dtype.
        spread: the largest reference_distance of the plain and the nudged runs
            (`parity.nudging`), from which the bound is computed (`parity.tolerances`).
        bound: the largest distance that passes.
        scale: max |truth|, or a substitute for it if the truth is nothing but cancellation.
        epsilon: the dtype's machine epsilon: epsilon · scale is one ULP of the array's scale. 0
            if the arrays must be equal to the last bit.
        size: the number of elements.
        beyond: how many of them are beyond the bound; of a row that has failed.
        where: the index of the worst element.
        candidate: the candidate's value there.
        truth: the truth's value there.
        note: for a failure, what is wrong, in words; else why an array is undetermined.
        determined: whether more than rounding determines the array (`parity.tolerances`). If not,
            a row that has not failed is "undetermined", neither passed nor failed.
    """

    passed: bool
    distance: float = 0.0
    reference_distance: float = 0.0
    spread: float = 0.0
    bound: float = 0.0
    scale: float = 0.0
    epsilon: float = 0.0
    size: int = 0
    beyond: int = 0
    where: tuple[int, ...] | None = None
    candidate: float | None = None
    truth: float | None = None
    note: str = ""
    determined: bool = True

    @property
    def verdict(self) -> str:
        """ "ok", "FAILED" or "undetermined"."""
        if not self.passed:
            return "FAILED"
        return "ok" if self.determined else "undetermined"

    def ulp(self, distance: float) -> float:
        """A distance in ULP of the array's scale; 0 for a distance of 0."""
        return distance / (self.epsilon * self.scale) if self.epsilon * self.scale else distance

    @property
    def tightness(self) -> float:
        """Distance over bound: above 1 fails."""
        if self.distance == 0:
            return 0.0
        return self.distance / self.bound if self.bound else float("inf")


def without_distance(place: Place, note: str) -> Row:
    """The row of two sides between which there is no distance: it fails."""
    return Row(**vars(place), passed=False, distance=float("nan"), note=note)


@dataclass(frozen=True)
class Results:
    """The results of one run of parity.

    Attributes:
        rows: one per compared array, in order of computation.
        environment: versions, platform and precision.
        figures: what the HTML report draws, lists by kind (`parity.proof.figures`).
        cases: the sizes and seeds of every case.
    """

    rows: tuple[Row, ...]
    environment: Mapping[str, Any]
    figures: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    cases: Mapping[Case, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether there are rows, none failed, and every check has determined rows."""
        return bool(self.rows) and all(row.passed for row in self.rows) and not self.unproven

    @property
    def undetermined(self) -> tuple[Row, ...]:
        """The rows of undetermined arrays that have not failed."""
        return tuple(row for row in self.rows if row.verdict == "undetermined")

    @property
    def unproven(self) -> tuple[Place, ...]:
        """The checks that prove nothing: all their rows are undetermined."""
        groups: dict[Place, bool] = {}
        for row in self.rows:
            groups[row.group] = groups.get(row.group, False) or row.verdict != "undetermined"
        return tuple(group for group, says in groups.items() if not says)

    @property
    def first_divergence(self) -> Row | None:
        """The failing row that is computed first; in training, the one of the earliest step."""
        return first_failing(self.rows)


def first_failing(rows: Iterable[Row]) -> Row | None:
    """The failing row that is computed first, of rows in order of computation."""
    for _, group in groupby(rows, key=lambda row: row.group):
        failing = [row for row in group if not row.passed]
        if failing:
            return min(failing, key=lambda row: row.step or 0)
    return None
