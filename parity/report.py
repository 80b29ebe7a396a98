"""The outcome of a check: rows in order of computation, and what they add up to."""

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SCHEMA_VERSION = 1
_SHOWN_FAILURES = 20
_NUMBERS = ("distance", "reference_distance", "spread", "bound", "scale")


@dataclass(frozen=True)
class Row:
    """One named array of the candidate against the truth (the reference in float64).

    Attributes:
        case: which inputs and sizes.
        check: "parameters", "inputs", "forward", "gradients" or "training, <optimizer>".
        dtype: what both sides computed in.
        name: the stage, parameter or moment.
        passed: whether the distance is within the bound, and everything finite.
        distance: max |candidate − truth| over the elements, in the array's own unit.
        reference_distance: the same for the reference itself in that dtype.
        spread: the largest reference_distance when weights and inputs move by up to one ULP,
            which the bound is made from (`parity.tolerances`).
        bound: the largest distance that passes.
        scale: max |truth|.
        epsilon: the dtype's machine epsilon: epsilon · scale is one ULP of the array's scale.
        step: in training, the first step that fails, or the one nearest to its bound; from 1.
        where: the index of the worst element.
        note: for a failure, what is wrong, in words.
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
    """Everything one run of parity found.

    Attributes:
        rows: one per compared array, in order of computation.
        environment: versions, platform, precision, and per case its sizes and seeds.
    """

    rows: tuple[Row, ...]
    environment: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        """True when there are rows and every one passed."""
        return bool(self.rows) and all(row.passed for row in self.rows)

    @property
    def first_divergence(self) -> Row | None:
        """The failing row that is computed first; in training, the earliest step goes first."""
        for _, group in groupby(self.rows, key=_group):
            failing = [row for row in group if not row.passed]
            if failing:
                return min(failing, key=lambda row: row.step or 0)
        return None

    def assert_passed(self) -> None:
        """Raise AssertionError, with the report as its text, unless everything passed."""
        if not self.passed:
            raise AssertionError(str(self))

    @classmethod
    def joined(cls, reports: Iterable["Report"]) -> "Report":
        """Several reports as one, the rows in the order given."""
        reports = list(reports)
        environment: dict[str, Any] = {}
        for report in reports:
            cases = {**environment.get("cases", {}), **report.environment.get("cases", {})}
            environment = {**environment, **report.environment, "cases": cases}
        return cls(tuple(row for report in reports for row in report.rows), environment)

    def verdict(self) -> str:
        """One line: what passed, or where it first went wrong."""
        failing = sum(not row.passed for row in self.rows)
        if self.passed:
            return f"PASSED: {len(self.rows)} comparisons, every one within its bound"
        first = self.first_divergence
        if first is None:
            return "FAILED: nothing was compared"
        return f"FAILED: {failing} of {len(self.rows)} comparisons; first {describe(first)}"

    def __str__(self) -> str:
        text = io.StringIO()
        console = Console(file=text, width=130, force_terminal=False, color_system=None)
        self.print_to(console)
        return text.getvalue().rstrip()

    def print_to(self, console: Console) -> None:
        """The verdict, one line per check with its worst array, the failures, the environment."""
        console.print(self.verdict(), markup=False, highlight=False, soft_wrap=True)
        if self.rows:
            console.print(_summary(self.rows))
        failing = [row for row in self.rows if not row.passed]
        for row in failing[:_SHOWN_FAILURES]:
            console.print(f"  {describe(row)}", markup=False, highlight=False, soft_wrap=True)
        if len(failing) > _SHOWN_FAILURES:
            console.print(f"  … and {len(failing) - _SHOWN_FAILURES} more: see the rows")
        for name, value in self.environment.items():
            if name != "cases":
                console.print(f"{name}: {value}", markup=False, highlight=False, soft_wrap=True)

    def markdown(self) -> str:
        """The report with every row, as Markdown."""
        lines = ["# Parity report", "", f"**{self.verdict()}**", "", "## Environment", ""]
        lines += [f"- {name}: {value}" for name, value in self.environment.items() if name != "cases"]
        lines += [f"- case “{case}”: {facts}" for case, facts in self._cases().items()]
        columns = "name | verdict | step | distance | ULP | reference | ULP | spread | bound | ULP"
        for (case, check, dtype), group in groupby(self.rows, key=_group):
            title = ", ".join(part for part in (case, check, dtype) if part)
            lines += ["", f"## {title}", "", f"| {columns} |", "|---" * 10 + "|"]
            lines += [f"| {' | '.join(_cells(row))} |" for row in group]
        return "\n".join(lines) + "\n"

    def _cases(self) -> Mapping[str, Any]:
        return self.environment.get("cases", {})

    def to_json(self) -> str:
        """JSON: schema_version, passed, first_divergence, environment, rows.

        Numbers that JSON cannot write (NaN, infinities) are strings that `float` reads.
        """
        first = self.first_divergence
        content = {
            "schema_version": SCHEMA_VERSION,
            "passed": self.passed,
            "first_divergence": None if first is None else _row_to_json(first),
            "environment": dict(self.environment),
            "rows": [_row_to_json(row) for row in self.rows],
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
        return cls(tuple(map(_row_from_json, content["rows"])), content["environment"])

    def write(self, directory: str | Path) -> None:
        """Write report.json and report.md into the directory, which is made if need be."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in (("report.json", self.to_json()), ("report.md", self.markdown())):
            temporary = directory / f".{name}.tmp"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(directory / name)


def describe(row: Row) -> str:
    """A row in one line of words, for verdicts and failure texts."""
    place = ", ".join(part for part in (row.case, row.check, row.dtype) if part)
    step = "" if row.step is None else f", step {row.step}"
    where = "" if row.where is None else f" at {list(row.where)}"
    text = row.note or (
        f"differs by {row.distance:.3g} ({row.ulp(row.distance):.3g} ULP){where}, allowed "
        f"{row.bound:.3g}; the reference's own distance is {row.reference_distance:.3g}"
    )
    return f"{row.name} ({place}{step}): {text}"


def _group(row: Row) -> tuple[str, str, str]:
    return row.case, row.check, row.dtype


def _cells(row: Row) -> list[str]:
    return [
        row.name,
        "ok" if row.passed else f"FAILED {row.note}".strip(),
        "" if row.step is None else str(row.step),
        f"{row.distance:.2e}",
        f"{row.ulp(row.distance):.3g}",
        f"{row.reference_distance:.2e}",
        f"{row.ulp(row.reference_distance):.3g}",
        f"{row.spread:.2e}",
        f"{row.bound:.2e}",
        f"{row.ulp(row.bound):.3g}",
    ]


def _summary(rows: Iterable[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("case", "check", "dtype"):
        table.add_column(heading)
    table.add_column("arrays", justify="right")
    table.add_column("nearest to its bound", overflow="fold")
    for heading in ("distance", "ULP", "reference ULP", "bound ULP", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for (case, check, dtype), grouped in groupby(rows, key=_group):
        group = list(grouped)
        worst = min(group, key=lambda row: (row.passed, -row.tightness))
        step = "" if worst.step is None else f" (step {worst.step})"
        table.add_row(
            case, check, dtype, str(len(group)), f"{worst.name}{step}", f"{worst.distance:.2e}",
            f"{worst.ulp(worst.distance):.3g}", f"{worst.ulp(worst.reference_distance):.3g}",
            f"{worst.ulp(worst.bound):.3g}", "ok" if worst.passed else "FAILED",
        )  # fmt: skip
    return table


def _row_to_json(row: Row) -> dict[str, Any]:
    content = asdict(row)
    for name in _NUMBERS:
        if content[name] - content[name] != 0:  # NaN or infinite
            content[name] = repr(content[name])
    return content


def _row_from_json(content: Mapping[str, Any]) -> Row:
    known = {field.name: content[field.name] for field in fields(Row)}
    for name in _NUMBERS:
        known[name] = float(known[name])
    known["where"] = None if known["where"] is None else tuple(known["where"])
    return Row(**known)
