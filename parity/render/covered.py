"""What range a report covers, in words: nothing outside of it was compared."""

from collections.abc import Iterator, Sequence

from parity.results import Results


def covered(report: Results) -> str:
    """Shapes and magnitudes of the inputs, dtypes, and how long what was trained."""
    dtypes = dict.fromkeys(row.dtype for row in report.rows if row.dtype)
    optimizers = dict.fromkeys(row.optimizer for row in report.rows if row.optimizer)
    steps = max((facts.get("training_steps", 0) for facts in report.cases.values()), default=0)
    trained = (
        f"{steps} steps of training by {', '.join(optimizers)}" if optimizers else "no training"
    )
    parts = [*_inputs(report), ", ".join(dtypes), trained]
    return f"Covered: {'; '.join(filter(None, parts))}. Nothing outside of this was compared."


def _inputs(report: Results) -> Iterator[str]:
    """Words for each input: the range of each axis, and of its largest value, over all cases."""
    shapes: dict[str, list[Sequence[int]]] = {}
    for facts in report.cases.values():
        for name, shape in facts.get("inputs", {}).items():
            shapes.setdefault(name, []).append(shape)
    for name, held in shapes.items():
        axes = [_range(sizes) for sizes in zip(*held, strict=False)]
        scales = [row.scale for row in report.rows if (row.check, row.name) == ("inputs", name)]
        largest = f", largest value {_range(scales)}" if scales else ""
        yield f"{name} {' × '.join(axes) or 'a number'}{largest}"


def _range(numbers: Sequence[float]) -> str:
    least, most = f"{min(numbers):.3g}", f"{max(numbers):.3g}"
    return least if least == most else f"{least} to {most}"
