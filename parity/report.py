"""The outcome of a check: rows in order of computation, and the verdict on them."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import groupby
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
_NUMBERS = ("distance", "reference_distance", "spread", "bound", "scale")


@dataclass(frozen=True)
class Row:
    """One named array of the candidate against the truth (the reference in float64).

    Attributes:
        case: the inputs and sizes; cases `what: which` of the same `what` are summarized together.
        check: "parameters", "inputs", "first wrong stage, …" (which explains a failed check),
            "local" (every stage computed from the reference's values),
            "forward", "gradients" or "training, <optimizer>".
        dtype: the dtype that both sides computed in.
        name: the stage, parameter or moment.
        passed: whether the distance is within the bound, and everything finite.
        distance: max |candidate − truth| over the elements, in the array's own unit.
        reference_distance: the same for the reference itself in that dtype.
        spread: the largest reference_distance of the plain and the nudged runs
            (`parity.nudging`), from which the bound is computed (`parity.tolerances`).
        bound: the largest distance that passes.
        scale: max |truth|, or a substitute for it if the truth is nothing but cancellation.
        epsilon: the dtype's machine epsilon: epsilon · scale is one ULP of the array's scale. 0
            if the arrays must be equal to the last bit.
        step: in training, the first step that fails, or the one nearest to its bound; from 1.
        where: the index of the worst element.
        note: for a failure, what is wrong, in words; else why an array is undetermined.
        determined: whether more than rounding determines the array (`parity.tolerances`). If not,
            a row that has not failed is "undetermined", neither passed nor failed.
    """

    case: str
    check: str
    dtype: str
    name: str
    passed: bool
    distance: float = 0.0
    reference_distance: float = 0.0
    spread: float = 0.0
    bound: float = 0.0
    scale: float = 0.0
    epsilon: float = 0.0
    step: int | None = None
    where: tuple[int, ...] | None = None
    note: str = ""
    determined: bool = True

    @property
    def verdict(self) -> str:
        """ "ok", "FAILED" or "undetermined"."""
        if not self.passed:
            return "FAILED"
        return "ok" if self.determined else "undetermined"

    @property
    def group(self) -> tuple[str, str, str]:
        """Which check the row belongs to: case, check and dtype."""
        return self.case, self.check, self.dtype

    def ulp(self, distance: float) -> float:
        """A distance in ULP of the array's scale; 0 for a distance of 0."""
        return distance / (self.epsilon * self.scale) if self.epsilon * self.scale else distance

    @property
    def tightness(self) -> float:
        """Distance over bound: above 1 fails."""
        if self.distance == 0:
            return 0.0
        return self.distance / self.bound if self.bound else float("inf")


@dataclass(frozen=True)
class Report:
    """The results of one run of parity.

    Attributes:
        rows: one per compared array, in order of computation.
        environment: versions, platform, precision, and per case its sizes and seeds.
        figures: what the HTML report draws, lists by kind (`parity.figures`).
    """

    rows: tuple[Row, ...]
    environment: Mapping[str, Any]
    figures: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether there are rows, none failed, and every check has determined rows."""
        return bool(self.rows) and all(row.passed for row in self.rows) and not self.unproven

    @property
    def undetermined(self) -> tuple[Row, ...]:
        """The rows of undetermined arrays that have not failed."""
        return tuple(row for row in self.rows if row.verdict == "undetermined")

    @property
    def unproven(self) -> tuple[tuple[str, str, str], ...]:
        """The checks (case, check, dtype) that prove nothing: all their rows are undetermined."""
        groups: dict[tuple[str, str, str], bool] = {}
        for row in self.rows:
            groups[row.group] = groups.get(row.group, False) or row.verdict != "undetermined"
        return tuple(group for group, says in groups.items() if not says)

    @property
    def first_divergence(self) -> Row | None:
        """The failing row that is computed first; in training, the one of the earliest step."""
        return first_failing(self.rows)

    def assert_passed(self) -> None:
        """Raise AssertionError, with the report as its text, unless everything passed."""
        if not self.passed:
            raise AssertionError(str(self))

    @classmethod
    def joined(cls, reports: Iterable["Report"]) -> "Report":
        """Several reports as one, with their rows in this order."""
        reports = list(reports)
        environment: dict[str, Any] = {}
        figures: dict[str, list[Mapping[str, Any]]] = {}
        for report in reports:
            for kind, drawn in report.figures.items():
                figures.setdefault(kind, []).extend(drawn)
            cases = {**environment.get("cases", {}), **report.environment.get("cases", {})}
            environment = {**environment, **report.environment, "cases": cases}
        return cls(tuple(row for report in reports for row in report.rows), environment, figures)

    def __str__(self) -> str:
        from parity.render import text

        return text.text(self)

    def to_json(self) -> str:
        """JSON by `parity/report.schema.json`, which docs/report-schema.md explains.

        Numbers that JSON cannot write (NaN, infinities) are strings that `float` reads.
        """
        first = self.first_divergence
        content = {
            "schema_version": SCHEMA_VERSION,
            "passed": self.passed,
            "first_divergence": None if first is None else _row_to_json(first),
            "environment": dict(self.environment),
            "rows": [_row_to_json(row) for row in self.rows],
            "figures": _finite(self.figures),
        }
        return json.dumps(content, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """The report that `to_json` wrote. ValueError for another schema_version."""
        content = json.loads(text)
        version = content.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version: expected {SCHEMA_VERSION}, got {version!r}; "
                "read the report with the version of parity that wrote it"
            )
        rows = tuple(map(_row_from_json, content["rows"]))
        return cls(rows, content["environment"], content["figures"])

    def write(self, directory: str | Path) -> None:
        """Write report.json, .md and .html into the directory; create it if it is missing."""
        from parity.render import html, text

        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        contents = {
            "report.json": self.to_json(),
            "report.md": text.markdown(self),
            "report.html": html.page(self),
        }
        for name, content in contents.items():
            temporary = directory / f".{name}.tmp"
            temporary.write_text(content, encoding="utf-8")
            temporary.replace(directory / name)


def first_failing(rows: Iterable[Row]) -> Row | None:
    """The failing row that is computed first, of rows in order of computation."""
    for _, group in groupby(rows, key=lambda row: row.group):
        failing = [row for row in group if not row.passed]
        if failing:
            return min(failing, key=lambda row: row.step or 0)
    return None


def _row_to_json(row: Row) -> dict[str, Any]:
    content = asdict(row)
    return {**content, **{name: _finite(content[name]) for name in _NUMBERS}}


def _finite(value: Any) -> Any:
    """The value, with numbers that JSON cannot write as strings."""
    if isinstance(value, Mapping):
        return {name: _finite(held) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(held) for held in value]
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def _row_from_json(content: Mapping[str, Any]) -> Row:
    known = {field.name: content[field.name] for field in fields(Row)}
    for name in _NUMBERS:
        known[name] = float(known[name])
    known["where"] = None if known["where"] is None else tuple(known["where"])
    return Row(**known)
