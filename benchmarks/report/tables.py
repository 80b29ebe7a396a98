"""A run as Markdown tables."""

from collections.abc import Callable, Iterable

from benchmarks.cells import Cell
from benchmarks.contestants import ALTERNATIVES, CONTESTANTS, OURS, PEERS
from benchmarks.report.figures import (
    Measured,
    Results,
    cell_of,
    floor,
    geometric_mean,
    median,
    of,
    ratio,
    spread,
)
from benchmarks.report.goals import GOALS, verdict

HEADLINES = {
    Cell("layer", mode, hidden_dim, *shape)
    for mode in ("inference", "gradients")
    for hidden_dim, shape in ((64, (1, 32)), (64, (32, 128)), (256, (32, 128)))
} | {Cell("network", mode, 64, 8, 2048) for mode in ("inference", "training")}
"""The rows in the README."""
TITLES = {
    ("layer", "inference"): "The LSTM layer, inference",
    ("layer", "gradients"): "The LSTM layer, forward and gradients",
    ("network", "inference"): "The whole network, inference",
    ("network", "training"): "The whole network, a training step",
}


def table(head: list[str], rows: Iterable[list[str]], words: int) -> str:
    """Markdown; the first `words` columns are text, the others numbers."""
    ruler = ["---"] * words + ["---:"] * (len(head) - words)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ruler, *rows))


def milliseconds(seconds: float) -> str:
    """Three digits, without exponent."""
    text = f"{1e3 * seconds:.3g}"
    return f"{1e3 * seconds:.0f}" if "e+" in text else text


def times(results: Results, cells: list[Measured], label: Callable[[Measured], list[str]]) -> str:
    """Each cell's medians and floor in milliseconds, the fastest bold; this library's ratios."""
    entered = {name for each in cells for name in each["seconds"]}
    names = [name for name in [*PEERS, OURS] if name in entered]
    words = len(label(cells[0]))
    head = [""] * words + [*names, "floor", "over PyTorch", "over the fastest peer"]
    rows = []
    for each in cells:
        fastest = min((n for n in names if n in each["seconds"]), key=lambda n: median(each, n))
        row = label(each)
        for name in names:
            text = milliseconds(median(each, name)) if name in each["seconds"] else "–"
            row.append(f"**{text}**" if name == fastest else text)
        row.append(milliseconds(floor(results, each)))
        row += [f"{ratio(each, 'PyTorch'):.2f}×", f"{ratio(each):.2f}×"]
        rows.append(row)
    return table(head, rows, words)


def size(each: Measured) -> list[str]:
    """Hidden size, and batch × time with the cell's differences from the plain one."""
    variant = cell_of(each).variant
    shape = f"{each['batch']} × {each['time']}"
    return [f"hidden {each['hidden_dim']}", f"{shape}, {variant}" if variant else shape]


def full_name(each: Measured) -> list[str]:
    """Part, mode and size in one column."""
    return [f"{each['part']}, {each['mode']}", *size(each)]


def where(results: Results) -> str:
    """What was measured, and on which machine, in one or two sentences."""
    machine = results["machine"]
    versions: dict[str, str] = {}
    for facts in results["contestants"].values():
        versions |= {
            name: version
            for name, version in facts.items()
            if isinstance(version, str) and version[:1].isdigit()
        }
    names = ", ".join(f"{name} {version.split('-')[0]}" for name, version in versions.items())
    busy = machine["busy"]
    noise = "" if busy is None else f", {busy:.0%} busy with something else before the run"
    return (
        f"Milliseconds, medians of interleaved rounds, float32, {machine['cores']} CPU cores "
        f"({machine['processor']}){noise}; {names}, Python {machine['python']}. Bold: the fastest. "
        f"Floor: the matrix products alone at {results['matmul_flops_per_second'] / 1e9:.0f} "
        "GFLOP/s, a large one's rate on all cores."
    )


def headlines(results: Results) -> str:
    """The rows for the README."""
    cells = [each for each in results["cells"] if cell_of(each) in HEADLINES]
    return times(results, cells, full_name) if cells else "No cell of the README was measured."


def summary(results: Results) -> str:
    """For each part and mode, against each peer: geometric mean, minimum and maximum over cells."""
    rows = []
    for (part, mode), title in TITLES.items():
        cells = of(results, part, mode)
        row = [title, str(len(cells))]
        for peer in PEERS:
            ratios = [ratio(each, peer) for each in cells if peer in each["seconds"]]
            row.append(
                f"{geometric_mean(ratios):.2f}× ({min(ratios):.2f}–{max(ratios):.2f})"
                if ratios
                else "–"
            )
        rows.append(row)
    return table(["", "cells", *PEERS], rows, 1)


def goals(results: Results) -> str:
    """The goal, the measurement, and by how much it was missed."""
    rows = []
    for goal in GOALS:
        figure = goal.measure(results)
        bound = f"{'at most' if goal.most else 'at least'} {goal.bound:g}{goal.unit}"
        if figure is None:
            rows.append([goal.text, bound, "not measured", "–"])
        else:
            rows.append([goal.text, bound, f"{figure:.2f}{goal.unit}", verdict(goal, figure)])
    return table(["goal", "aimed at", "measured", ""], rows, 1)


def alternatives(results: Results) -> str:
    """The default beside this library's other implementations and meshes, in milliseconds."""
    cells = [each for each in results["cells"] if set(ALTERNATIVES) & set(each["seconds"])]
    names = [OURS, *ALTERNATIVES]
    rows = [
        [*full_name(each), *(milliseconds(median(each, name)) for name in names)] for each in cells
    ]
    return table(["", "", "", "the default", *ALTERNATIVES], rows, 3)


def kernels(results: Results) -> str:
    """The kernels that each contestant ran, and in how many of its cells of a part and mode."""
    counts: dict[tuple[str, str, str, str], int] = {}
    for each in results["cells"]:
        for name, kernel in each["kernels"].items():
            key = (name, each["part"], each["mode"], kernel)
            counts[key] = counts.get(key, 0) + 1
    ordered = sorted(counts, key=lambda key: list(CONTESTANTS).index(key[0]))
    rows = [
        [name, f"{part}, {mode}", k, str(counts[name, part, mode, k])]
        for name, part, mode, k in ordered
    ]
    return table(["", "", "kernel", "cells"], rows, 3)


def beside(results: Results) -> list[str]:
    """The spread, then dispatch, memory and compile time: a line each."""
    middle, most = spread(results)
    rounds = (
        f"Spread between the quartiles of a contestant's rounds, of their median: {middle:.0%} in "
        f"the middle, {most:.0%} or less in nine of ten"
    )
    if "beside" not in results:
        return [rounds]
    found = results["beside"]
    memory = ", ".join(f"{n} {size / 2**20:.0f} MiB" for n, size in found["peak_bytes"].items())
    calls = ", ".join(f"{n} {1e6 * s:.0f} µs" for n, s in found["dispatch_seconds"].items())
    compiling = ", ".join(
        f"{each['seconds']:.1f} s at time {each['time']}" for each in found["compile_seconds"]
    )
    return [
        rounds,
        f"A jitted call at 1 × 32, awaited: {calls}",
        f"Peak memory of {Cell(**found['memory_cell'])}, each in a fresh process, less that of a "
        f"tiny step: {memory}",
        f"Building and compiling a training step of batch 32: {compiling}",
    ]


def everything(results: Results) -> str:
    """All tables, for docs/performance.md and the terminal."""
    parts = [where(results)]
    for (part, mode), title in TITLES.items():
        cells = of(results, part, mode)
        if cells:
            parts += [f"### {title}", times(results, cells, size)]
    parts += ["### How many times as fast, in the geometric mean (least–most)", summary(results)]
    parts.append("\n".join(f"- {line}." for line in beside(results)))
    parts += ["### Goals", goals(results)]
    if any(set(ALTERNATIVES) & set(each["seconds"]) for each in results["cells"]):
        parts += ["### Other ways to run it", alternatives(results)]
    parts += ["### What each one ran", kernels(results)]
    return "\n\n".join(parts)
