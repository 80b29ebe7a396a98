"""A report as text: for the terminal, for a failing assertion, and as Markdown."""

import io
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.place import Case
from parity.render.covered import covered
from parity.results import Results, Row

WIDTH = 140
_SHOWN_FAILURES = 20
COLUMNS = "name | verdict | step | distance | ULP | reference | ULP | spread | bound | ULP"


def text(report: Results) -> str:
    """What `print_to` prints, without colours."""
    stream = io.StringIO()
    print_to(report, Console(file=stream, width=WIDTH, force_terminal=False, color_system=None))
    return stream.getvalue().rstrip()


def print_to(report: Results, console: Console) -> None:
    """The verdict, a line per check, failures, notes, what was covered, seeds, environment."""

    def line(words: str) -> None:
        console.print(words, markup=False, highlight=False, soft_wrap=True)

    line(verdict(report))
    if report.rows:
        console.print(_summary(report.rows))
    for row in report.failing[:_SHOWN_FAILURES]:
        line(f"  {describe(row)}")
    if len(report.failing) > _SHOWN_FAILURES:
        line(f"  … and {len(report.failing) - _SHOWN_FAILURES} more: see report.rows")
    for known in report.known:
        line(str(known))
    for note in report.notes:
        line(f"note: {note}")
    if report.rows:
        line(covered(report))
    for words in sizes_and_seeds(report.cases):
        line(words)
    for name, value in report.environment.items():
        line(f"{name}: {plain(value)}")


def verdict(report: Results) -> str:
    """One line: what passed, or the first divergence."""
    count = len(report.rows)
    if report.passed:
        known = sum(bool(row.known) for row in report.rows)
        but = f" but {known} known differences" if known else ""
        of_notes = f"; notes: {len(report.notes)}" if report.notes else ""
        within = f"{count} comparisons, every one within its bound"
        return f"PASSED: {within}{but}{_unknown(report)}{of_notes}"
    if report.unproven and report.first_divergence is None:
        of = "; ".join(group.title for group in report.unproven)
        return f"UNDETERMINED: only rounding determines every array of {of}{_unknown(report)}"
    first = report.first_divergence
    if first is None:
        wrong = "; ".join(str(known) for known in report.known if not known.rows)
        return f"FAILED: {wrong or 'nothing was compared'}"
    return f"FAILED: {len(report.failing)} of {count} comparisons; first {describe(first)}"


def _unknown(report: Results) -> str:
    count = len(report.undetermined)
    return f"; {count} undetermined, first {describe(report.undetermined[0])}" if count else ""


def describe(row: Row) -> str:
    """A row in one line of words."""
    differs = (
        f"differs by {row.in_ulp(row.distance)}, allowed {row.bound:.3g}; the reference's own "
        f"distance is {row.in_ulp(row.reference_distance)}"
    )
    return f"{row.name} ({row.title}): {_with_elements(row, row.note or differs)}"


def _with_elements(row: Row, words: str) -> str:
    """The words; of a row that has failed, also how many elements, and the values at the worst."""
    if not row.beyond or row.candidate is None or row.truth is None:
        return words
    what = "beyond the bound" if row.epsilon else "that differ"
    candidate, truth = _told_apart(row.candidate, row.truth)
    at = f"at {list(row.where)} " if row.where else ""
    return (
        f"{words}; elements {what}: {row.beyond} of {row.size}; "
        f"{at}the candidate has {candidate}, the truth {truth}"
    )


def _told_apart(candidate: float, truth: float) -> tuple[str, str]:
    """Both numbers with at least four digits, and enough to tell them apart."""
    if isinstance(truth, int):
        return str(candidate), str(truth)
    written = ((f"{candidate:#.{n}g}", f"{truth:#.{n}g}") for n in range(4, 17))
    return next((w for w in written if w[0] != w[1]), (repr(candidate), repr(truth)))


def markdown(report: Results) -> str:
    """The report with every row, as Markdown."""
    lines = [
        "# Parity report",
        "",
        f"**{verdict(report)}**",
        "",
        covered(report),
        "",
        *(f"- note: {note}" for note in report.notes),
        "",
        "## Environment",
        "",
    ]
    lines += [f"- {name}: {plain(value)}" for name, value in report.environment.items()]
    lines += [f"- {case}: {plain(value)}" for case, value in facts_of_cases(report).items()]
    for group, rows in groupby(report.rows, key=lambda row: row.group):
        lines += ["", f"## {group.title}", ""]
        lines += [f"| {COLUMNS} |", "|---" * len(COLUMNS.split("|")) + "|"]
        lines += [f"| {' | '.join(cells(row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def sizes_and_seeds(cases: Mapping[Case, Mapping[str, Any]]) -> Iterator[str]:
    """A line for all cases of a kind: for each fact, every value that occurs."""
    kinds: dict[str, dict[str, dict[str, None]]] = {}  # the inner dict is an ordered set
    for case, facts in cases.items():
        kind = kinds.setdefault(case.what or "the inputs", {})
        shapes = facts.get("inputs", {})
        for name, value in {**shapes, **facts}.items():
            if name not in ("inputs", "notes"):
                kind.setdefault(name, {})[plain(value)] = None
    for what, values in kinds.items():
        yield f"{what}: " + "; ".join(f"{name} {', '.join(held)}" for name, held in values.items())


def facts_of_cases(report: Results) -> dict[str, dict[str, Any]]:
    """The facts of every case but its notes, which stand apart."""
    return {
        f"case “{case}”": {name: fact for name, fact in facts.items() if name != "notes"}
        for case, facts in report.cases.items()
    }


def plain(value: object) -> str:
    """Nested facts on one line: `a 1, b 2`."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(held)}" for name, held in value.items())
    if isinstance(value, list | tuple):
        return " × ".join(map(str, value)) if _is_shape(value) else " and ".join(map(str, value))
    return str(value)


def _is_shape(value: list | tuple) -> bool:
    return all(isinstance(number, int) for number in value)


def cells(row: Row) -> list[str]:
    """The cells of a row, in the order of `COLUMNS`."""
    return [
        row.name,
        f"{row.verdict} {_with_elements(row, row.known or row.note)}".strip(),
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
    """A line per check and dtype over all cases of a kind, with the array nearest to its bound."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("what", "check", "dtype"):
        table.add_column(heading)
    for heading in ("cases", "arrays"):
        table.add_column(heading, justify="right")
    table.add_column("nearest to its bound", overflow="fold")
    for heading in ("distance", "ULP", "reference", "ULP", "bound ULP", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for group, members, worst in summarized(rows):
        counts = len({row.case for row in members}), len(members)
        verdict = worst.verdict
        cells = (*group, *map(str, counts), *nearest(worst), verdict)
        table.add_row(*map(Text, cells))  # Text: brackets in a name are not markup
    return table


def summarized(rows: Iterable[Row]) -> Iterator[tuple[tuple[str, str, str], list[Row], Row]]:
    """What, check and dtype; their rows over all cases of a kind; the row nearest to its bound."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.case.what, row.check_title, row.dtype), []).append(row)
    for group, members in groups.items():
        yield (
            group,
            members,
            max(members, key=lambda row: (row.failed, row.tightness)),
        )


def nearest(row: Row) -> tuple[str, ...]:
    """A row's name, its distance and the reference's, each also in ULP, and the bound in ULP."""
    if row.epsilon == 0:  # equality to the last bit: there is no distance to show
        return "all equal to the last bit" if row.passed else row.name, "", "", "", "", ""
    step = "" if row.step is None else f"step {row.step}"
    place = ", ".join(part for part in (row.case.which, step) if part)
    return (
        f"{row.name} ({place})" if place else row.name,
        f"{row.distance:.2e}",
        f"{row.ulp(row.distance):.3g}",
        f"{row.reference_distance:.2e}",
        f"{row.ulp(row.reference_distance):.3g}",
        f"{row.ulp(row.bound):.3g}",
    )
