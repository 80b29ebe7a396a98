"""The report of a check: its results, as text, as JSON and as files."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from flax_bilstm.checkpoints.replacing import replacing
from parity.place import Case
from parity.render import text
from parity.results import Results, Row

SCHEMA_VERSION = 2
_NUMBERS = ("distance", "reference_distance", "spread", "bound", "scale", "candidate", "truth")


@dataclass(frozen=True)
class Report(Results):
    """The results of one run of parity, which can be printed, stored and read again."""

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
        cases: dict[Case, Mapping[str, Any]] = {}
        acknowledged: dict[str, str] = {}
        for report in reports:
            for kind, drawn in report.figures.items():
                figures.setdefault(kind, []).extend(drawn)
            environment |= report.environment
            cases |= report.cases
            acknowledged |= report.acknowledged
        rows = tuple(row for report in reports for row in report.rows)
        return cls(rows, environment, figures, cases, acknowledged)

    def __str__(self) -> str:
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
            "cases": [{**asdict(case), "facts": facts} for case, facts in self.cases.items()],
            "known": [known._asdict() for known in self.known],
            "rows": [_row_to_json(row) for row in self.rows],
            "figures": _finite(self.figures),
        }
        return json.dumps(content, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, written: str) -> "Report":
        """The report that `to_json` wrote. ValueError for another schema_version."""
        content = json.loads(written)
        version = content.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version: expected {SCHEMA_VERSION}, got {version!r}; "
                "read the report with the version of parity that wrote it"
            )
        rows = tuple(map(_row_from_json, content["rows"]))
        cases = {Case(c["what"], c["which"]): c["facts"] for c in content["cases"]}
        known = {known["pattern"]: known["reason"] for known in content["known"]}
        return cls(rows, content["environment"], content["figures"], cases, known)

    def write(self, directory: str | Path) -> None:
        """Write report.json, .md and .html into the directory; create it if it is missing."""
        from parity.render import html  # matplotlib takes half a second

        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        contents = {
            "report.json": self.to_json(),
            "report.md": text.markdown(self),
            "report.html": html.page(self),
        }
        for name, content in contents.items():
            with replacing(directory / name) as temporary:
                temporary.write_text(content, encoding="utf-8")


def _row_to_json(row: Row) -> dict[str, Any]:
    return _finite(asdict(row))


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
        known[name] = float(known[name]) if isinstance(known[name], str) else known[name]
    known["case"] = Case(**known["case"])
    known["where"] = None if known["where"] is None else tuple(known["where"])
    return Row(**known)
