"""The run's JSON as tables: for the terminal, for the README (between two marks), and as a plot."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import DEFAULT, OURS, PEERS, Cell

BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"


def best_of_ours(cell: dict[str, Any]) -> str:
    """The fastest of this library's implementations in a cell."""
    return min((n for n in cell["seconds"] if n in OURS), key=lambda n: _median(cell, n))


def ratio(cell: dict[str, Any], peer: str) -> float:
    """How many times faster than the peer this library is in a cell."""
    return _median(cell, peer) / _median(cell, best_of_ours(cell))


def geometric_mean(ratios: list[float]) -> float:
    """The mean that suits ratios."""
    return float(np.exp(np.mean(np.log(ratios))))


def floor(results: dict[str, Any], cell: dict[str, Any]) -> float:
    """Seconds that the cell's matrix products alone take at the machine's own measured rate."""
    operations = Cell(*(cell[field] for field in Cell._fields)).matmul_flops
    return operations / results["matmul_flops_per_second"]


def summary(results: dict[str, Any]) -> list[str]:
    """Geometric means of the ratios for each mode, the spread, and what beats the default."""
    lines = []
    for mode in dict.fromkeys(cell["mode"] for cell in results["cells"]):
        cells = [cell for cell in results["cells"] if cell["mode"] == mode]
        means = {peer: geometric_mean([ratio(cell, peer) for cell in cells]) for peer in PEERS}
        slowest = {peer: min(ratio(cell, peer) for cell in cells) for peer in PEERS}
        bounds = {
            peer: geometric_mean([_median(cell, peer) / floor(results, cell) for cell in cells])
            for peer in PEERS
        }
        parts = [
            f"{means[p]:.2f}× {p} (least {slowest[p]:.2f}×; the floor's {bounds[p]:.2f}×)"
            for p in PEERS
        ]
        lines.append(f"{mode}, geometric mean over {len(cells)} cells: {', '.join(parts)}")
    return [*lines, _spread(results), _beyond_the_default(results)]


def _spread(results: dict[str, Any]) -> str:
    """How far apart the rounds lie."""
    spreads = [
        (seconds["quartile_3"] - seconds["quartile_1"]) / seconds["median"]
        for cell in results["cells"]
        for seconds in cell["seconds"].values()
    ]
    return (
        f"spread between quartiles, of the median: {np.median(spreads):.0%} in the middle, "
        f"{np.percentile(spreads, 90):.0%} or less in nine of ten"
    )


def _beyond_the_default(results: dict[str, Any]) -> str:
    """Where another of this library's is faster: so a wrong default shows."""
    parts = []
    for name in (name for name in OURS if name != DEFAULT):
        cells = [cell for cell in results["cells"] if name in cell["seconds"]]
        gains = [_median(cell, DEFAULT) / _median(cell, name) for cell in cells]
        faster = sum(gain > 1 for gain in gains)
        parts.append(f"{name} in {faster} of {len(gains)} cells (at most {max(gains):.2f}×)")
    return f"faster than the default, {DEFAULT} on one device: {', '.join(parts)}"


def table(results: dict[str, Any]) -> str:
    """Markdown: milliseconds (medians), the floor, and the ratios to the best of ours."""
    names = [*PEERS, *OURS]
    head = ["mode", "hidden", "batch × time", *names, "floor", *(f"vs {peer}" for peer in PEERS)]
    lines = [_row(head), _row(["---"] * 3 + ["---:"] * (len(head) - 3))]
    for cell in results["cells"]:
        best = best_of_ours(cell)
        times = []
        for name in names:
            text = _milliseconds(_median(cell, name)) if name in cell["seconds"] else "–"
            times.append(f"**{text}**" if name == best else text)
        ratios = [f"{ratio(cell, peer):.2f}×" for peer in PEERS]
        times.append(_milliseconds(floor(results, cell)))
        size = f"{cell['batch']} × {cell['time']}"
        lines.append(_row([cell["mode"], str(cell["hidden_dim"]), size, *times, *ratios]))
    return "\n".join(lines)


def markdown(results: dict[str, Any]) -> str:
    """The table with where it was measured and what else was."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"Milliseconds, medians of {results['rounds']} interleaved rounds, float32, "
        f"{machine['cores']} CPU cores ({machine['processor']}), {versions}. Bold: the best of "
        "this library, which the last two columns compare. Floor: the matrix products alone, at "
        f"{results['matmul_flops_per_second'] / 1e9:.0f} GFLOP/s, a large one's rate here.",
        "",
        table(results),
        "",
        *(f"- {line}." for line in summary(results)),
        *(f"- {line}." for line in results["notes"]),
    ]
    return "\n".join(lines)


def write_readme(results: dict[str, Any], readme: Path) -> None:
    """Put the table between the README's two marks."""
    text = readme.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{readme}: expected one line {BEGIN} and one line {END}.")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{markdown(results)}\n{END}{after}")


def write_plot(results: dict[str, Any], path: Path) -> None:
    """Ratios to PyTorch, a bar for each cell."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(12, 5), sharex=True, layout="constrained")
    for panel, mode in zip(panels, ("inference", "training"), strict=True):
        cells = [cell for cell in results["cells"] if cell["mode"] == mode]
        labels = [f"{c['batch']}×{c['time']}, h{c['hidden_dim']}" for c in cells]
        position = np.arange(len(cells))
        for offset, (peer, colour) in enumerate(
            zip(PEERS, ("tab:blue", "tab:orange"), strict=True)
        ):
            values = [ratio(cell, peer) for cell in cells]
            panel.barh(position + 0.4 * offset, values, 0.4, label=f"over {peer}", color=colour)
        panel.axvline(1, color="black", linewidth=0.8)
        panel.set_yticks(position + 0.2, labels)
        panel.invert_yaxis()
        panel.set_xlabel("times faster")
        panel.set_title(mode)
        panel.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def load(path: Path) -> dict[str, Any]:
    """A run's JSON."""
    return json.loads(path.read_text())


def _median(cell: dict[str, Any], name: str) -> float:
    return cell["seconds"][name]["median"]


def _milliseconds(seconds: float) -> str:
    """Three digits, never in powers of ten."""
    text = f"{1e3 * seconds:.3g}"
    return f"{1e3 * seconds:.0f}" if "e+" in text else text


def _row(entries: list[str]) -> str:
    return f"| {' | '.join(entries)} |"
