"""What a check found: rows in order of computation, and what follows from them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from parity.place import Case, Place


@dataclass(frozen=True, kw_only=True)
class Row(Place):
    """One named array of the candidate against the truth (the reference in float64).

    In training, it is the first step that fails, or the one nearest to its bound. A row has the
    attributes of its place too: case, check, dtype, name, step, optimizer and explains
    (docs/report-schema.md).

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
        known: of a row that differs, the reason if the difference is acknowledged.
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
    known: str = ""

    @property
    def failed(self) -> bool:
        """Whether it differs, and the difference is not acknowledged."""
        return not self.passed and not self.known

    @property
    def verdict(self) -> str:
        """ "ok", "FAILED", "known difference" or "undetermined"."""
        if not self.passed:
            return "known difference" if self.known else "FAILED"
        return "ok" if self.determined else "undetermined"

    def ulp(self, distance: float) -> float:
        """A distance in ULP of the array's scale; 0 for a distance of 0."""
        return distance / (self.epsilon * self.scale) if self.epsilon * self.scale else distance

    def in_ulp(self, distance: float) -> str:
        """A distance in words: in ULP, too, if the array has a scale."""
        ulp = f" ({self.ulp(distance):.3g} ULP)" if self.epsilon * self.scale else ""
        return f"{distance:.3g}{ulp}"

    @property
    def tightness(self) -> float:
        """Distance over bound: above 1 fails."""
        if self.distance == 0:
            return 0.0
        return self.distance / self.bound if self.bound else float("inf")


def without_distance(place: Place, note: str) -> Row:
    """The row of two sides between which there is no distance: it fails."""
    return Row(**vars(place), passed=False, distance=float("nan"), note=note)


def missing(place: Place, note: str) -> Row:
    """The row of an array that one side does not have: it fails, and is never known."""
    return replace(without_distance(place, note), candidate=float("nan"))


def acknowledge(rows: Iterable[Row], known: Mapping[str, str]) -> tuple[Row, ...]:
    """The rows, where those that differ and match a pattern have its reason.

    A candidate that is not finite, lacks the array or raises an error is never a known difference.

    Args:
        rows: rows of one check.
        known: pattern (`Place.matches`) → reason.
    """

    def reason(row: Row) -> str:
        return next((why for pattern, why in known.items() if row.matches(pattern)), "")

    return tuple(
        row
        if row.passed or not np.isfinite(row.candidate or 0)
        else replace(row, known=reason(row))
        for row in rows
    )


class Known(NamedTuple):
    """A known difference, and how many rows its pattern matches, and how many of them differ."""

    pattern: str
    reason: str
    rows: int
    differing: int

    def __str__(self) -> str:
        words = f"known difference {self.pattern!r}, {self.reason}"
        if not self.rows:
            return f"{words}: no row has such a name; correct the pattern, or remove it"
        if not self.differing:
            return f"{words}: it did not occur in {self.rows} rows; remove it"
        return f"{words}: {self.differing} of {self.rows} rows differ"


@dataclass(frozen=True)
class Results:
    """The results of one run of parity.

    Attributes:
        rows: one per compared array, in order of computation.
        environment: versions, platform and precision.
        figures: what the HTML report draws, lists by kind (`parity.proof.figures`).
        cases: the sizes and seeds of every case.
        acknowledged: the patterns of known differences and their reasons.
    """

    rows: tuple[Row, ...]
    environment: Mapping[str, Any]
    figures: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    cases: Mapping[Case, Mapping[str, Any]] = field(default_factory=dict)
    acknowledged: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether there are rows, none failed, every check has determined rows, and every pattern
        of a known difference matches a row."""
        if not self.rows or self.unproven or not all(known.rows for known in self.known):
            return False
        return not self.failing

    @property
    def failing(self) -> tuple[Row, ...]:
        """The rows that failed."""
        return tuple(row for row in self.rows if row.failed)

    @property
    def known(self) -> tuple[Known, ...]:
        """The known differences, and how often they occurred."""
        matching = {p: [row for row in self.rows if row.matches(p)] for p in self.acknowledged}
        return tuple(
            Known(p, why, len(matching[p]), sum(bool(row.known) for row in matching[p]))
            for p, why in self.acknowledged.items()
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the report does not show, in words: the notes of all cases, each once."""
        every = (note for facts in self.cases.values() for note in facts.get("notes", ()))
        return tuple(dict.fromkeys(every))

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
        failing = [row for row in group if row.failed]
        if failing:
            return min(failing, key=lambda row: row.step or 0)
    return None
