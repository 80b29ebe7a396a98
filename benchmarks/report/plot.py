"""How many times faster than eager PyTorch each contestant is, as a plot."""

from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.contestants import OURS, PEERS
from benchmarks.report.figures import Results, cell_of, median, of
from benchmarks.report.tables import TITLES

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "flax-bilstm"  # the same bytes for the same numbers
import matplotlib.pyplot as plt

MARKERS = {
    "PyTorch compiled": ("s", "tab:orange"),
    "flax.nnx": ("v", "tab:green"),
    "ONNX Runtime": ("^", "tab:purple"),
    "OpenVINO": ("D", "tab:brown"),
    OURS: ("o", "tab:blue"),
}
assert MARKERS.keys() | {"PyTorch"} == PEERS.keys() | {OURS}


def write(results: Results, part: str, path: Path) -> None:
    """One panel for each mode of the part, one row for each cell."""
    modes = [mode for each, mode in TITLES if each == part and of(results, part, mode)]
    rows = max(len(of(results, part, mode)) for mode in modes)
    figure, panels = plt.subplots(
        1, len(modes), figsize=(11, 1.5 + 0.2 * rows), layout="constrained", squeeze=False
    )
    for panel, mode in zip(panels[0], modes, strict=True):
        cells = of(results, part, mode)
        for name, (marker, colour) in MARKERS.items():
            entered = [i for i, each in enumerate(cells) if name in each["seconds"]]
            speed = [median(cells[i], "PyTorch") / median(cells[i], name) for i in entered]
            panel.plot(
                speed,
                entered,
                marker,
                color=colour,
                label=name,
                markersize=8 if name == OURS else 5,
                zorder=3 if name == OURS else 2,
            )
        panel.axvline(1, color="black", linewidth=0.8)
        panel.set_xscale("log", base=2)
        low, high = panel.get_xlim()
        ticks = 2.0 ** np.arange(np.ceil(np.log2(low)), np.floor(np.log2(high)) + 1)
        panel.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
        labels = [
            f"{c.batch}×{c.time}, hidden {c.hidden_dim}" + (f", {c.variant}" if c.variant else "")
            for c in map(cell_of, cells)
        ]
        panel.set_yticks(range(len(cells)), labels, fontsize="small")
        panel.invert_yaxis()
        panel.grid(axis="both", linewidth=0.3)
        panel.set_title(TITLES[part, mode])
        panel.set_xlabel("times as fast as eager PyTorch")
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
