"""Folders of Orbax, torch.distributed.checkpoint and Hugging Face that are damaged: one message."""

import io
import json
import pickle
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flax_bilstm import checkpoints


def orbax_folder_of_files(path: Path) -> Path:
    """An Orbax folder whose arrays are files, not a database; returns the folder of one array."""
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        checkpointer.save(path, {f"a{i}": np.full((4, 2), i, np.float32) for i in range(20)})
    return path / "a7"


def _replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


ORBAX: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no array's numbers": (
        lambda one: [(folder / "0.0").unlink() for folder in one.parent.glob("a*[0-9]")],
        r"chunk \{0, 0\} .* is missing",
    ),
    "damaged descriptions": (
        lambda one: [(folder / ".zarray").write_text("1") for folder in one.parent.glob("a*[0-9]")],
        "Expected object, but received: 1",
    ),
    "chunks beyond any memory": (  # for which tensorstore ends the process
        lambda one: _replaced(one / ".zarray", '"chunks":[4,2]', '"chunks":[1099511627776,2]'),
        r"chunks of shape \(1099511627776, 2\) of a7, which is \(4, 2\)",
    ),
    "more chunks than files": (
        lambda one: [
            _replaced(one / ".zarray", '"chunks":[4,2]', '"chunks":[1,1]'),
            _replaced(one / ".zarray", '"shape":[4,2]', f'"shape":[{2**28},2]'),
        ],
        "arrays of 536,870,931 chunks, of which at most ",
    ),
    "an array that is missing": (shutil.rmtree, "its array a7 is missing"),
    "another kind of arrays": (
        lambda one: _replaced(one.parent / "_METADATA", '"use_zarr3": false', '"use_zarr3": true'),
        "its arrays are missing",
    ),
    "an array outside": (
        lambda one: _replaced(one.parent / "_METADATA", '"key": "a7"', '"key": "x/../../a7"'),
        r"an array outside of the folder, x/\.\./\.\./a7",
    ),
    "an unknown kind of value": (
        lambda one: _replaced(one.parent / "_METADATA", '"np.ndarray"', '"of none"'),
        "its file _METADATA does not describe its arrays",
    ),
    "no object": (
        lambda one: (one.parent / "_METADATA").write_text("[]"),
        "its file _METADATA is not a JSON object",
    ),
    "a link to a folder": (
        lambda one: (one.parent / "other").symlink_to("/"),
        "found a link to a folder, other; remove it",
    ),
}


@pytest.mark.parametrize("what", ORBAX)
def test_damaged_orbax_folders_are_one_message(
    what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Orbax reads arrays concurrently: its threads printed an error for each of the others."""
    damage, message = ORBAX[what]
    damage(orbax_folder_of_files(tmp_path / "run"))
    capfd.readouterr()
    with pytest.raises(ValueError, match=message):
        checkpoints.read(tmp_path / "run")
    time.sleep(0.2)  # for threads that still run
    assert capfd.readouterr().err == ""


def in_pieces(path: Path, change: Callable[[dict[int, Any]], Any]) -> None:
    """A folder of torch.distributed.checkpoint with a tensor of shape (4, 2) in two pieces.

    `change` gets both pieces, by their first row: [start, array, place in the file].
    """
    torch = pytest.importorskip("torch")
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.metadata import MetadataIndex

    with warnings.catch_warnings(action="ignore"):
        checkpoint.save({"w": torch.zeros(4, 2)}, checkpoint_id=path)
    metadata = pickle.loads((path / ".metadata").read_bytes())
    ((index, stored),) = metadata.storage_data.items()
    pieces: dict[int, Any] = {
        row: [(row, 0), torch.full((2, 2), row + 1.0), None] for row in (0, 2)
    }
    data, places = b"", {}
    change(pieces)
    for row, (_, array, place) in pieces.items():
        if place is not None:
            continue
        written = io.BytesIO()
        torch.save(array, written)
        places[row] = type(stored)("p.distcp", len(data), len(written.getvalue()))
        data += written.getvalue()
    metadata.storage_data = {
        MetadataIndex(index.fqn, start): places[row if place is None else place]
        for row, (start, _, place) in pieces.items()
    }
    (path / "p.distcp").write_bytes(data)
    (path / ".metadata").write_bytes(pickle.dumps(metadata))


def test_a_tensor_in_pieces(tmp_path: Path) -> None:
    in_pieces(tmp_path / "step", lambda pieces: None)
    expected = [[1, 1], [1, 1], [3, 3], [3, 3]]
    np.testing.assert_array_equal(checkpoints.read(tmp_path / "step").tensors["w"], expected)


PIECES: dict[str, tuple[Callable[[dict[int, Any]], Any], str]] = {
    "that overlap": (
        lambda pieces: pieces[2].__setitem__(0, (1, 0)),
        r"the pieces of w do not fill its shape",
    ),
    "before the start": (lambda pieces: pieces[2].__setitem__(0, (-2, 0)), "do not fill its shape"),
    "beyond the end": (lambda pieces: pieces[2].__setitem__(0, (2, 1)), "do not fill its shape"),
    "of two dtypes": (
        lambda pieces: pieces[2].__setitem__(1, pieces[2][1].double()),
        "do not fill its shape",
    ),
    "of the same bytes": (
        lambda pieces: pieces[2].__setitem__(2, 0),
        r"its file p\.distcp has pieces that share bytes",
    ),
    "of another rank": (
        lambda pieces: pieces[2].__setitem__(1, pieces[2][1].flatten()),
        r"its pieces cannot be read \(ValueError\)",
    ),
}


@pytest.mark.parametrize("what", PIECES)
def test_pieces_that_do_not_make_a_tensor(what: str, tmp_path: Path) -> None:
    """Where no piece is, the tensor would have what was in memory before."""
    change, message = PIECES[what]
    in_pieces(tmp_path / "step", change)
    with pytest.raises(ValueError, match=message):
        checkpoints.read(tmp_path / "step")


@pytest.mark.parametrize("shard", ["x" * 100_000, "a\x1b[31m.bin"])
def test_a_shard_with_a_name_that_no_file_has(shard: str, tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": shard}}))
    with pytest.raises(FileNotFoundError, match="expected a shard, which the index names") as info:
        checkpoints.read(tmp_path)
    assert str(info.value).isprintable()
    assert len(str(info.value)) < 600
