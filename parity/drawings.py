"""Heat maps and curves as inline SVG, coloured by the page's style sheet (`parity.html`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from parity.markup import Markup, element, join

LABELS, CELL_HEIGHT, MAP_WIDTH = 170, 20, 540
WIDTH, MARGIN = 720, 64


@dataclass(frozen=True)
class Line:
    """One row of a heat map, or one curve. A value above `limit` is drawn as a failure."""

    label: str
    values: Sequence[float]
    limit: float = math.inf
    kind: str = "flax"


def heat_map(title: str, lines: Sequence[Line], *, full: float, unit: str = "") -> Markup:
    """Lines of cells, a column per time step, as dark as their value is near to `full`.

    Negative values have a colour of their own. Every cell tells its value when pointed at.
    """
    columns = max(len(line.values) for line in lines)
    width = min(26.0, MAP_WIDTH / columns)
    marks = []
    for number, line in enumerate(lines):
        top = number * (CELL_HEIGHT + 2)
        marks.append(_text(line.label, LABELS - 8, top + 14, anchor="end"))
        for step, value in enumerate(line.values):
            marks.append(_cell(step, value, line.limit, full, unit, width, top))
    bottom = len(lines) * (CELL_HEIGHT + 2)
    for step in range(0, columns, _every(columns)):
        marks.append(_text(str(step), LABELS + (step + 0.5) * width, bottom + 14, "middle"))
    marks.append(_text("time step", LABELS - 8, bottom + 14, anchor="end", class_="faint"))
    return _svg(title, LABELS + columns * width + 2, bottom + 20, *marks)


def key(full: float, unit: str) -> Markup:
    """How dark a cell is for which value."""
    steps = 24
    shape = {"y": 0, "width": 8, "height": 12, "class_": "heat"}
    cells = [
        element("rect", x=i * 8, fill_opacity=_shade(i / steps), **shape) for i in range(steps + 1)
    ]
    over = element("rect", x=300, y=0, width=12, height=12, class_="over")
    texts = (
        _text("0", 0, 26), _text(f"{full:.3g} {unit}", 200, 26, "end"),
        _text("above the bound", 318, 11),
    )  # fmt: skip
    return _svg(f"Scale: from 0 to {full:.3g} {unit}", 440, 30, *cells, over, *texts)


def curves(title: str, lines: Sequence[Line], *, height: int = 260, unit: str = "") -> Markup:
    """Curves over one another, a value per step from 1, with axes."""
    finite = [v for line in lines for v in line.values if math.isfinite(v)] or [0.0]
    low, high = min(finite), max(finite)
    if low == high:
        low, high = low - 1, high + 1
    steps = max(len(line.values) for line in lines)
    right, bottom = WIDTH - 12, height - 30

    def x(step: float) -> float:
        return MARGIN + (step - 1) / max(steps - 1, 1) * (right - MARGIN)

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - 28)

    marks = []
    for tick in _ticks(low, high):
        marks.append(
            element("line", x1=MARGIN, x2=right, y1=_n(y(tick)), y2=_n(y(tick)), class_="grid")
        )
        marks.append(_text(f"{tick:.3g}", MARGIN - 6, y(tick) + 4, "end"))
    for step in range(_every(steps), steps + 1, _every(steps)):
        marks.append(_text(str(step), x(step), bottom + 16, "middle"))
    marks.append(_text("step", right, height - 2, "end", class_="faint"))
    marks.append(_text(unit, 0, 12, class_="faint"))
    for number, line in enumerate(lines):
        points = " ".join(
            f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(line.values, 1) if math.isfinite(v)
        )
        marks.append(element("polyline", points=points, class_=f"curve {line.kind}"))
        if len(lines) > 1:
            left = right - 150 + 80 * number
            marks.append(
                element("line", x1=left, x2=left + 18, y1=14, y2=14, class_=f"curve {line.kind}")
            )
            marks.append(_text(line.label, left + 23, 18))
    return _svg(title, WIDTH, height, *marks)


def bar(share: float, words: str) -> Markup:
    """How much of its bound a distance uses up."""
    failed = not share <= 1
    filled = 100.0 if failed else 100 * share
    return _svg(
        words, 100, 8,
        element("rect", width=100, height=8, rx=2, class_="track"),
        element("rect", width=_n(filled), height=8, rx=2, class_="over" if failed else "flax"),
    )  # fmt: skip


def _cell(
    step: int, value: float, limit: float, full: float, unit: str, width: float, top: float
) -> Markup:
    within = math.isfinite(value) and value <= limit
    kind = ("heat" if value >= 0 else "cool") if within else "over"
    return element(
        "rect",
        element("title", f"t = {step}: {value:.3g} {unit}".strip()),
        x=_n(LABELS + step * width), y=_n(top), width=_n(max(width - 1, 1)), height=CELL_HEIGHT,
        class_=kind, fill_opacity=_shade(abs(value) / full if full else 0.0) if within else None,
    )  # fmt: skip


def _shade(share: float) -> str:
    """Never quite empty, so that a cell without error is seen to be there."""
    return _n(0.06 + 0.94 * min(share, 1.0))


def _every(count: int) -> int:
    """1, 2 or 5 times a power of ten, so that at most about ten marks stand on an axis."""
    for power in range(9):
        for factor in (1, 2, 5):
            if count <= 11 * factor * 10**power:
                return factor * 10**power
    return count


def _ticks(low: float, high: float) -> list[float]:
    power = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(f * power for f in (1, 2, 5, 10) if (high - low) / (f * power) <= 5)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _text(
    words: str, x: float, y: float, anchor: str | None = None, class_: str | None = None
) -> Markup:
    return element("text", words, x=_n(x), y=_n(y), text_anchor=anchor, class_=class_)


def _svg(title: str, width: float, height: float, *marks: Markup) -> Markup:
    return element(
        "svg", element("title", title), join(*marks), role="img", aria_label=title,
        viewBox=f"0 0 {_n(width)} {_n(height)}", width=_n(width), height=_n(height),
    )  # fmt: skip


def _n(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")
