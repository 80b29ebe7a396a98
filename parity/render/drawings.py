"""Heat maps over time and curves over steps, by matplotlib."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from parity.render.markup import Markup, element


@dataclass(frozen=True)
class Line:
    """One row of a heat map, or one curve. A value above `limit` is drawn as a failure."""

    label: str
    values: Sequence[float]
    limit: float = math.inf


def heat_map(lines: Sequence[Line], *, full: float, unit: str = "") -> Figure:
    """A row of cells for each line, a column for each time step; `full` is the darkest value.

    Negative values have another colour; so have values that are above their limit or not finite.
    """
    columns = max(len(line.values) for line in lines)
    values = np.full((len(lines), columns), np.nan)
    for row, line in enumerate(lines):
        inside = [v if math.isfinite(v) and v <= line.limit else math.nan for v in line.values]
        values[row, : len(inside)] = inside
    figure = Figure(figsize=(8, 0.6 + 0.25 * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    signed = bool((values < 0).any())
    image = axes.imshow(
        np.ma.masked_invalid(values), aspect="auto", vmin=-full if signed else 0.0, vmax=full,
        cmap=colormaps["PuOr" if signed else "Blues"].with_extremes(bad="crimson"),
    )  # fmt: skip
    axes.set_yticks(range(len(lines)), [line.label for line in lines])
    axes.set_xlabel("time step")
    figure.colorbar(image, label=unit)
    return figure


def curves(theirs: Line, ours: Line, what: str) -> Figure:
    """Two curves over one another, and their difference below."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    steps = np.arange(1, len(theirs.values) + 1)
    above.plot(steps, theirs.values, label=theirs.label, linewidth=4, alpha=0.4)
    above.plot(steps, ours.values, label=ours.label, linewidth=1, color="black")
    above.set_ylabel(what)
    above.legend()
    below.plot(steps, np.subtract(ours.values, theirs.values), linewidth=1, color="black")
    below.set_ylabel(f"{ours.label} − {theirs.label}")
    below.set_xlabel("step")
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()


def inline(figure: Figure, words: str) -> Markup:
    """The figure as an image within a page, with `words` as its alternative text."""
    data = base64.b64encode(png(figure)).decode("ascii")
    return element("img", src=f"data:image/png;base64,{data}", alt=words)
