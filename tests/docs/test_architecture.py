"""docs/architecture.md names files that are there, and leaves none of the packages' parts out."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
MAP = PAGE.split("```text")[1].split("```")[0]
MAPPED: dict[str, set[str]] = {}
"""Folder whose contents are on the map → the files and folders that the map has in it."""

_open: list[str] = []
for _indent, _names in re.findall(r"^( *)([\w.]+/?(?:, [\w.]+)*) {2,}", MAP, re.MULTILINE):
    del _open[len(_indent) // 2 :]
    if _open:
        MAPPED.setdefault("".join(_open), set()).update(_names.split(", "))
    _open.append(_names)


@pytest.mark.parametrize("folder", MAPPED)
def test_the_map_has_every_file_and_folder(folder: str) -> None:
    there = {path.name for path in (ROOT / folder).iterdir() if path.suffix in {".py", ".h", ".cc"}}
    there |= {path.name for path in (ROOT / folder).glob("CMakeLists.txt")}
    there |= {f"{path.parent.name}/" for path in (ROOT / folder).glob("*/__init__.py")}
    assert MAPPED[folder] == there


def test_the_map_opens_both_packages_and_has_every_package() -> None:
    assert MAPPED.keys() >= {"flax_bilstm/", "flax_bilstm/recurrence/native/", "parity/"}
    for name in re.findall(r"^([\w]+/) ", MAP, re.MULTILINE):
        assert (ROOT / name).is_dir(), name


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:flax_bilstm|parity|tools|tests|docs)/[\w./-]+)`", PAGE)))
)
def test_a_path_in_the_text_is_there(path: str) -> None:
    assert (ROOT / path).exists()


def test_a_table_of_the_registry_is_where_the_text_says() -> None:
    for name, path in re.findall(r"`([A-Z]+)` in `([\w./]+)`", PAGE):
        assert re.search(rf"^{name}\b", (ROOT / path).read_text(), re.MULTILINE), name


def test_private_hooks_are_used_where_the_text_says() -> None:
    section = PAGE.split("## Private hooks")[1].split("\n## ")[0]
    found = re.findall(r"^\| `([\w.]+)`[^|]*\| `([\w./]+)` \|", section, re.MULTILINE)
    assert len(found) >= 10
    for hook, path in found:
        assert hook in (ROOT / path).read_text(), (hook, path)
