"""What the pages take from elsewhere: the measured table of the README, and the notebook."""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
INCLUDE = re.compile(r"<!-- README: (\w+) -->")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add `notebook.md`, made from `notebook.ipynb`."""
    notebook = json.loads((DOCS / "notebook.ipynb").read_text())
    files.append(File.generated(config, "notebook.md", content=notebook_page(notebook)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the table in its place."""
    return INCLUDE.sub(lambda match: readme_part(match[1]), markdown)


def readme_part(name: str) -> str:
    """What stands in README.md between the marks `name: begin` and `name: end`."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = README.read_text()
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"README.md: expected {begin} and {end} once each")
    inside = text.partition(begin)[2].partition(end)[0].strip()
    return inside or "*No figures are claimed here yet: `make bench` makes them on your machine.*"


def notebook_page(notebook: dict[str, Any]) -> str:
    """The cells as Markdown: text, code, and what the code printed."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            parts.append(f"```text\n{''.join(output['text'])}```")
    return "\n\n".join(parts) + "\n"
