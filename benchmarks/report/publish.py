"""Writes a run into README.md and docs/, between two marks, with its plots."""

from pathlib import Path

from benchmarks.report import plot, tables
from benchmarks.report.figures import Results, of

BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
PLOTS = {"layer": Path("docs/speed-layer.svg"), "network": Path("docs/speed-network.svg")}


def publish(results: Results, root: Path) -> None:
    """Write the plots, ten rows into README.md, and everything into docs/performance.md.

    Raises:
        ValueError: a page does not have both marks exactly once; nothing is written then.
    """
    readme, page = root / "README.md", root / "docs/performance.md"
    alt = "How many times as fast as eager PyTorch each contestant is, cell by cell"
    short = f"![{alt}]({PLOTS['layer']})\n\n{tables.where(results)}\n\n{tables.headlines(results)}"
    images = "\n\n".join(f"![{alt}]({path.name})" for path in PLOTS.values())
    texts = {
        readme: between_marks(readme, short),
        page: between_marks(page, f"{images}\n\n{tables.everything(results)}"),
    }
    for path, text in texts.items():
        path.write_text(text)
    for part, path in PLOTS.items():
        if of(results, part):
            plot.write(results, part, root / path)


def between_marks(page: Path, inside: str) -> str:
    """The page's text with `inside` between its two marks."""
    text = page.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{page}: expected one line {BEGIN} and one line {END}.")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{inside}\n{END}{rest.split(END)[1]}"
