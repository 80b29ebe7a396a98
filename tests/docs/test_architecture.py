"""docs/architecture.md names files that are there, and leaves none of the packages' parts out."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
MAP = re.findall(r"^( *)([\w.]+/?) {2,}", PAGE.split("```text")[1].split("```")[0], re.MULTILINE)
MAPPED = {"flax_bilstm": set[str](), "parity": set[str]()}
"""Package → its files and folders on the map."""

for _indent, _name in MAP:
    if _indent == "":
        _package = _name.strip("/")
    else:
        MAPPED[_package].add(_name)


@pytest.mark.parametrize("package", MAPPED)
def test_the_map_has_every_module_and_folder_of_a_package(package: str) -> None:
    there = {path.name for path in (ROOT / package).glob("*.py")}
    there |= {f"{path.parent.name}/" for path in (ROOT / package).glob("*/__init__.py")}
    assert MAPPED[package] == there


def test_the_map_has_every_package() -> None:
    for indent, name in MAP:
        assert indent or (ROOT / name).is_dir(), name


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
