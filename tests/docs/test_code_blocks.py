"""Every Python block in README.md, docs/ and the notebook runs; the notebook prints what it says.

The blocks of a page run in order in one process and go on from one another; a block that sets up
JAX's devices starts a new one, since that can be done only before JAX runs. A `console` block's
commands run between them; a `text` block is only shown. Where torch is not installed, blocks run up
to the first that needs it.
"""

import importlib.util
import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from .. import processes

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GUIDE = ROOT / "docs" / "port-your-own.md"
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"

FENCE = re.compile(r"^```(python|console|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS_TORCH = re.compile(r"^\s*(import|from) (torch|torch_ref|parity)\b", re.MULTILINE)
SETS_UP_DEVICES = re.compile(r"jax_num_cpu_devices|jax\.distributed")


class Block(NamedTuple):
    """A fenced block, as Python, and the line of its page that it begins in."""

    code: str
    line: int


def blocks_of(text: str) -> list[Block]:
    """The page's blocks, commands as calls."""
    found = []
    for fence in FENCE.finditer(text):
        if fence[1] == "text":
            continue
        code, line = fence[2], text.count("\n", 0, fence.start(2)) + 1
        if fence[1] == "console":
            commands = re.sub(r"^(?!\$ ).*$", "", code, flags=re.MULTILINE)
            code = re.sub(r"^\$ (.*)$", r"__shell(r'''\1''')", commands, flags=re.MULTILINE)
        found.append(Block(code, line))
    return found


def processes_of(blocks: list[Block]) -> list[list[Block]]:
    """The blocks that run in one process each."""
    groups: list[list[Block]] = [[]]
    for block in blocks:
        if SETS_UP_DEVICES.search(block.code) and groups[-1]:
            groups.append([])
        groups[-1].append(block)
    return [group for group in groups if group]


def without_torch(group: list[Block]) -> list[Block]:
    """The blocks before the first that needs torch."""
    needing = [i for i, block in enumerate(group) if NEEDS_TORCH.search(block.code)]
    return group[: needing[0]] if needing else group


def cases():
    for page in PAGES:
        for group in processes_of(blocks_of(page.read_text())):
            if not importlib.util.find_spec("torch"):
                group = without_torch(group)
            if not group:
                continue
            yield pytest.param(page, group, id=f"{page.name}:{group[0].line}")


PREAMBLE = """\
import subprocess
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
def __shell(command): subprocess.run(command, shell=True, check=True)
exec(compile({source!r}, {page!r}, "exec"))
"""


@pytest.fixture
def run(quick_environment, tmp_path):
    """(source, page) → what the source prints, in a folder of its own with our commands."""

    def run(source: str, page: Path) -> str:
        program = PREAMBLE.format(source=source, page=str(page))
        ended = processes.run(program, tmp_path, quick_environment)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    return run


@pytest.mark.parametrize(("page", "group"), list(cases()))
def test_the_blocks_of_a_page_run(run, page, group):
    source = ""
    for block in group:  # each in its own line of the page, for tracebacks
        source += "\n" * (block.line - 1 - source.count("\n")) + block.code
    run(source, page)


def test_a_port_of_ones_own_takes_less_than_40_lines():
    definitions, check, *_ = blocks_of(GUIDE.read_text())
    assert sum(bool(line.strip()) for line in (definitions.code + check.code).splitlines()) < 40


def test_the_notebook_prints_what_it_says(run):
    pytest.importorskip("torch")
    cells = [c for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == "code"]
    mark = "=== end of cell ==="
    source = "".join("".join(cell["source"]) + f"\nprint({mark!r})\n" for cell in cells)
    printed = run(source, NOTEBOOK).split(f"{mark}\n")
    said = ["".join("".join(o["text"]) for o in cell["outputs"]) for cell in cells]
    assert printed == [*said, ""]


def test_every_fence_is_closed_and_known():
    """A block that this runner overlooks would go untested."""
    for page in PAGES:
        text = page.read_text()
        marks = [line for line in text.splitlines() if line.lstrip().startswith(("```", "~~~"))]
        known = [mark for fence in FENCE.finditer(text) for mark in (f"```{fence[1]}", "```")]
        assert marks == known, page.name
