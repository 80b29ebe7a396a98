"""A report as one self-contained HTML file: no network, no script."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import groupby
from typing import Any

from parity.render.covered import covered
from parity.render.drawings import Line, curves, heat_map, inline
from parity.render.markup import Markup, element, join
from parity.render.text import (
    COLUMNS,
    cells,
    describe,
    facts_of_cases,
    nearest,
    plain,
    summarized,
    verdict,
)
from parity.results import Results, Row

SHOWN_FAILURES = 10
_SUMMARY = (
    "what", "", "check", "dtype", "cases", "arrays", "nearest to its bound",
    "distance", "ULP", "reference", "ULP", "bound, ULP", "of the bound",
)  # fmt: skip


def page(report: Results) -> str:
    """The report: verdict, what is wrong, the table, figures, every row, the environment."""
    sections = [
        ("summary", "Every check", _summary(report.rows)),
        *_figures(report.figures),
        ("rows", "Every comparison", _rows(report.rows)),
        ("environment", "Environment", _environment(report)),
    ]
    style = files("parity.render").joinpath("report.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"Parity report: {'passed' if report.passed else 'FAILED'}"),
        element("link", rel="icon", href="data:,"),
        element("style", Markup(style)),
    )
    contents = [element("a", title, href=f"#{name}") for name, title, _ in sections]
    body = element(
        "body",
        element("header", element("h1", "Parity report"), _verdict(report)),
        element("nav", *contents, aria_label="Sections"),
        element(
            "main",
            *(
                element("section", element("h2", title, id=f"{name}-title"), content, id=name,
                        aria_labelledby=f"{name}-title")
                for name, title, content in sections
            ),
        ),
    )  # fmt: skip
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _verdict(report: Results) -> Markup:
    """The head of the page: whether the report passed, and its first divergence."""
    word, _, rest = verdict(report).partition(": ")
    more = len(report.failing) - SHOWN_FAILURES
    listed = [element("li", describe(row)) for row in report.failing[:SHOWN_FAILURES]]
    known = [element("li", str(known)) for known in report.known]
    notes = [element("li", f"note: {note}") for note in report.notes]
    return join(
        element(
            "p", element("strong", word), element("span", rest),
            class_=f"verdict {'passed' if report.passed else 'failed'}", id="verdict",
        ),
        element("ol", *listed, class_="failures") if listed else None,
        element("p", f"… and {more} more, below.", class_="faint") if more > 0 else None,
        element("ul", *known) if known else None,
        element("ul", *notes) if notes else None,
        element("p", covered(report), class_="faint") if report.rows else None,
    )  # fmt: skip


def _summary(rows: Sequence[Row]) -> Markup:
    body = []
    for group, members, worst in summarized(rows):
        counts = str(len({row.case for row in members})), str(len(members))
        share = _share(worst.tightness) if worst.epsilon else Markup()
        mark = element("span", worst.verdict, class_="mark")
        what, *check = group
        cells = (what, mark, *check, *counts, *nearest(worst), share)
        body.append(_table_row(cells, 6, "failed" if worst.failed else None))
    explanation = (
        "Distances are from the truth, PyTorch in float64. One ULP is the dtype's epsilon times "
        "the array's largest element. The bound follows from PyTorch's own rounding "
        "(parity/tolerances.py)."
    )
    table = _table("Checks, each with the array nearest to its bound", _SUMMARY, body)
    return join(element("p", explanation, class_="faint"), table)


def _share(tightness: float) -> Markup:
    """The share of its bound that a distance takes, as a bar."""
    filled = min(tightness, 1.0) if math.isfinite(tightness) else 1.0
    return element("meter", f"{tightness:.1%}", value=f"{filled:.3f}", high=0.999, max=1)


def _rows(rows: Sequence[Row]) -> Markup:
    """Every row, check by check; failed checks are expanded."""
    parts = []
    for group, members in groupby(rows, key=lambda row: row.group):
        held = list(members)
        failing = any(row.failed for row in held)
        counts = Counter(row.verdict for row in held)
        title = group.title
        note = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        body = [_table_row(cells(row), 1, "failed" if row.failed else None) for row in held]
        parts.append(
            element(
                "details",
                element("summary", title, element("span", note, class_="mark")),
                _table(title, [heading.strip() for heading in COLUMNS.split("|")], body),
                open="" if failing else None,
                class_="failed" if failing else None,
            )
        )
    return join(*parts)


def _environment(report: Results) -> Markup:
    facts = {**report.environment, **facts_of_cases(report)}
    pairs = (
        join(element("dt", name), element("dd", plain(value))) for name, value in facts.items()
    )
    return element("dl", *pairs)


def _figures(
    figures: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Iterator[tuple[str, str, Markup]]:
    """A section per kind of figure that the report has."""
    kinds = (
        ("stage_errors", "Error by layer, direction and time step", _stage_errors),
        ("loss_curves", "Training loss", _loss_curves),
        ("attention", "Attention of the last step", _attention),
    )
    for kind, title, draw in kinds:
        if figures.get(kind):
            drawn = (draw(given) for given in figures[kind])
            yield kind.replace("_", "-"), title, element("div", *drawn, class_="figures")


def _stage_errors(given: Mapping[str, Any]) -> Markup:
    """Both sides' errors over time, on one scale."""
    lines = []
    for stage in given["stages"]:
        place, limit = f"layer {stage['layer']} {stage['direction']}", float(stage["bound"])
        lines.append(Line(f"{place}, PyTorch", _floats(stage["reference"])))
        lines.append(Line("Flax", _floats(stage["candidate"]), limit))
    within = [v for line in lines for v in line.values if math.isfinite(v) and v <= line.limit]
    full = max(within, default=0.0) or 1.0
    bounds = [float(stage["bound"]) for stage in given["stages"]]
    title = f"{given['case']}, {given['dtype']}"
    words = (
        f"The largest error of each time step, in ULP of the stage's scale. Allowed: "
        f"{min(bounds):.3g} to {max(bounds):.3g} ULP."
    )
    drawn = inline(heat_map(lines, full=full, unit="ULP"), f"Errors, {title}")
    return _figure(title, words, drawn, lines)


def _loss_curves(given: Mapping[str, Any]) -> Markup:
    theirs, ours = _floats(given["reference"]), _floats(given["candidate"])
    lines = [Line("PyTorch", theirs), Line("Flax", ours)]
    difference = Line("Flax − PyTorch", [b - a for a, b in zip(theirs, ours, strict=True)])
    drawn = inline(
        curves(lines[0], lines[1], given["loss"]), f"{given['loss']} of both sides, step by step"
    )
    words = (
        "Both are trained from the same parameters over the same batches; below, the difference."
    )
    title = ", ".join(filter(None, (given["case"], given["optimizer"], given["dtype"])))
    return _figure(title, words, drawn, [*lines, difference])


def _attention(given: Mapping[str, Any]) -> Markup:
    sides = {"PyTorch": given["reference"], "Flax": given["candidate"]}
    lines = {
        side: [Line(f"sequence {i}", _floats(row)) for i, row in enumerate(weights)]
        for side, weights in sides.items()
    }
    difference = [
        Line(ours.label, [b - a for a, b in zip(theirs.values, ours.values, strict=True)])
        for theirs, ours in zip(lines["PyTorch"], lines["Flax"], strict=True)
    ]
    largest = max(max(line.values) for line in lines["PyTorch"])
    off = max((abs(v) for line in difference for v in line.values if math.isfinite(v)), default=0)
    drawn = join(
        *(
            join(element("h4", side), inline(heat_map(held, full=largest), f"Weights, {side}"))
            for side, held in lines.items()
        ),
        element("h4", f"Flax − PyTorch, at most {off:.2g}"),
        inline(heat_map(difference, full=off or 1.0), "Difference of the weights"),
    )
    words = f"Darkest: {largest:.3g}; in the difference {off:.2g}, negative in the other colour."
    labelled = [
        Line(f"{side}, {line.label}", line.values)
        for side, held in {**lines, "difference": difference}.items()
        for line in held
    ]
    return _figure(f"{given['case']}, {given['dtype']}", words, drawn, labelled)


def _figure(title: str, words: str, drawn: Markup, lines: Sequence[Line]) -> Markup:
    """A drawing with its caption, and the same numbers as a table, for screen readers."""
    steps = range(max(len(line.values) for line in lines))
    body = [_table_row((line.label, *(f"{v:.3g}" for v in line.values)), 1) for line in lines]
    numbers = _table(f"{title}: numbers", ("", *(str(step) for step in steps)), body)
    return element(
        "figure",
        element("figcaption", element("h3", title), element("p", words, class_="faint")),
        element("div", drawn, class_="drawing"),
        element("details", element("summary", "As numbers"), numbers),
    )


def _table(caption: str, headings: Sequence[str], body: Sequence[Markup]) -> Markup:
    row = element("tr", *(element("th", heading, scope="col") for heading in headings))
    table = element(
        "table", element("caption", caption), element("thead", row), element("tbody", *body)
    )
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _table_row(cells: Sequence[str], words: int, class_: str | None = None) -> Markup:
    """The first cell is the row's heading; cells from index `words` on are numbers."""
    held = [element("td", cell, class_="number" if i > words else None) for i, cell in
            enumerate(cells[1:], start=1)]  # fmt: skip
    return element("tr", element("th", cells[0], scope="row"), *held, class_=class_)


def _floats(values: Sequence[Any]) -> list[float]:
    return [float(value) for value in values]
