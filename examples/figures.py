"""The examples' figure: the confusion matrix, and the attention of the last step."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

import digits


def draw(
    path: Path,
    data: digits.Sequences,
    predicted: Int[np.ndarray, " batch"],
    attention: Float[np.ndarray, "batch time"],
) -> None:
    """The confusion matrix, and an example of every class with its attention, as a PNG."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.15))[0]
    _confusion_matrix(left, data.label, predicted)
    _attention_maps(right, data, attention)
    temporary = path.with_name(f".{path.name}.tmp")
    FigureCanvasAgg(figure).print_png(temporary)
    temporary.replace(path)


def _confusion_matrix(figure: SubFigure, label: digits.Array, predicted: np.ndarray) -> None:
    counts = np.zeros((digits.CLASSES, digits.CLASSES), int)
    np.add.at(counts, (label, predicted), 1)
    axes = figure.subplots()
    axes.imshow(counts, cmap="Blues")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if count > counts.max() / 2 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color)
    axes.set(xticks=range(digits.CLASSES), yticks=range(digits.CLASSES))
    axes.set(xlabel="predicted", ylabel="written")
    right, total = np.trace(counts), counts.sum()
    axes.set_title(f"Test digits: {right} of {total} right, {right / total:.1%}")


def _attention_maps(figure: SubFigure, data: digits.Sequences, attention: np.ndarray) -> None:
    """The first example of every class; below each column its attention weight."""
    figure.suptitle("Weight of each column in the last step's attention")
    grid = figure.subplots(4, 5, height_ratios=(3, 1, 3, 1), sharey="row")
    for digit in range(digits.CLASSES):
        example = int(np.argmax(data.label == digit))
        length = int(data.lengths[example])
        row, column = divmod(digit, 5)
        image, weights = grid[2 * row, column], grid[2 * row + 1, column]
        image.imshow(data.x[example, :length].T, cmap="gray_r")
        image.set_axis_off()
        weights.bar(range(length), attention[example, :length], color="tab:blue")
        weights.set(xlim=(-0.5, digits.FEATURES - 0.5), ylim=(0, 1), xticks=[])
        image.set_xlim(-0.5, digits.FEATURES - 0.5)
