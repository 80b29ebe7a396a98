"""Folders as mappings from relative paths to their files' bytes, and damage to them."""

import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tools.fuzzing import damage
from tools.fuzzing.values import JSON, changed, pick

Folder = dict[str, bytes]
"""Relative path → the file's bytes."""

Replacement = Callable[[Path], None]
"""What makes something at a path that is no regular file."""


def held(path: Path) -> Folder:
    """The files of a folder."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def made(save: Callable[[Path], Any]) -> Folder:
    """The files that `save` writes to the folder that it is given."""
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings(action="ignore"):
        save(Path(temporary) / "folder")
        return held(Path(temporary) / "folder")


def damaged(folder: Folder, rng: np.random.Generator) -> tuple[Folder, dict[str, Replacement]]:
    """The folder after one to three changes, and what is no regular file in it."""
    replaced = {}
    for _ in range(rng.integers(1, 4)):
        if not folder:
            break
        name = pick(list(folder), rng)
        if rng.random() < 0.1:
            replaced[name] = pick(REPLACEMENTS, rng)
        else:
            folder = pick(CHANGES, rng)(folder, name, rng)
    return folder, replaced


def written(folder: Folder, replaced: dict[str, Replacement], path: Path) -> None:
    """Write the folder to `path`."""
    path.mkdir()
    for name, content in folder.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name in replaced:
            replaced[name](file)
        else:
            file.write_bytes(content)


def _bytes(folder: Folder, name: str, rng: np.random.Generator) -> Folder:
    change = pick(damage.CHANGES, rng)
    return folder | {name: change(folder[name], list(folder.values()), rng)}


def _values(folder: Folder, name: str, rng: np.random.Generator) -> Folder:
    """A change to the JSON of one of the files that have some."""
    texts = [each for each, content in folder.items() if content.lstrip().startswith(b"{")]
    if not texts:
        return _bytes(folder, name, rng)
    chosen = pick(texts, rng)
    try:
        tree = json.loads(folder[chosen])
    except ValueError:  # damaged by an earlier change
        return folder
    return folder | {chosen: json.dumps(changed(tree, rng, JSON)).encode()}


def _removed(folder: Folder, name: str, rng: np.random.Generator) -> Folder:
    return {other: content for other, content in folder.items() if other != name}


def _emptied(folder: Folder, name: str, rng: np.random.Generator) -> Folder:
    return folder | {name: b""}


def _exchanged(folder: Folder, name: str, rng: np.random.Generator) -> Folder:
    other = pick(list(folder), rng)
    return folder | {name: folder[other], other: folder[name]}


def _added(folder: Folder, name: str, rng: np.random.Generator) -> Folder:
    strange = ("999999999999999999", "default", "x" * 200, "model.safetensors", ".metadata", "a\nb")
    new = f"{pick(strange, rng)}{pick(['', '/_METADATA'], rng)}"
    clash = any(f"{a}/".startswith(f"{b}/") for o in folder for a, b in ((o, new), (new, o)))
    return folder if clash else folder | {new: folder[name]}


CHANGES = (_values, _values, _values, _bytes, _bytes, _removed, _emptied, _exchanged, _added)


def _link(target: str) -> Replacement:
    return lambda path: path.symlink_to(target)


REPLACEMENTS: tuple[Replacement, ...] = (
    os.mkfifo,
    Path.mkdir,
    lambda path: path.symlink_to(path.name),  # to itself
    _link("nowhere"),
    _link("."),
    _link(".."),
    _link("/dev/zero"),
    _link("/"),
)
