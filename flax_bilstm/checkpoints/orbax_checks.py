"""Checks of an Orbax folder before Orbax reads it: its files, its arrays, and their sizes."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax_bilstm.checkpoints.replacing import kind_of
from flax_bilstm.showing import shown

METADATA = "_METADATA"
"""The file in the folder of every tree that Orbax writes."""

MOST_ABSENT = 100_000
"""Most chunks that are not stored, since their numbers are all equal."""

DRIVERS = (("zarr", ".zarray"), ("zarr3", "zarr.json"))
"""For both formats of arrays, tensorstore's name, and the file that describes an array."""

LARGEST_RATIO = 2000
"""Largest ratio of arrays' bytes to bytes on disk, for arrays of more bytes than `ALWAYS_READ`."""

ALWAYS_READ = 4 * 2**30
"""So many bytes of arrays are read from any folder: Orbax compresses, and equal numbers, such as
weights that are all zeros, take almost nothing on the disk."""


def check_files(folder: Path) -> None:
    """Refuse files that would block a reader, such as a FIFO, and links to other folders."""
    for parent, folders, files in os.walk(folder):
        for name in (*files, *folders):
            path = Path(parent) / name
            if not path.is_file() and (name in files or path.is_symlink()):
                kind = "a link to a folder" if name in folders else kind_of(path)
                raise ValueError(
                    "expected files and folders alone in an Orbax checkpoint, found "
                    f"{kind}, {shown(name)}; remove it, or copy the checkpoint again."
                )


def check_arrays(folder: Path) -> None:
    """Read all arrays, one by one, if they are in the folder and not too large.

    Orbax reads them concurrently, and prints errors of those still running after the first failure.
    """
    metadata = _metadata(folder)
    named = {
        ".".join(str(key["key"]) for key in entry["key_metadata"]): entry["value_metadata"]
        for entry in metadata.get("tree_metadata", {}).values()
    }
    for name in named:
        if not os.path.normpath(folder / name).startswith(f"{folder}{os.sep}"):
            raise ValueError(f"an array outside of the folder, {shown(name)}")
    arrays, stored_keys = _arrays(folder, metadata)
    if not arrays:
        raise ValueError("its arrays are missing")
    for name, value in named.items():
        stored = not value["skip_deserialize"] and value["value_type"] != "string"
        if stored and name not in arrays:
            raise ValueError(f"its array {shown(name)} is missing")
    on_disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    shapes = ((array.shape, array.dtype.numpy_dtype.itemsize) for array in arrays.values())
    size = sum(math.prod(shape) * width for shape, width in shapes)
    most = max(LARGEST_RATIO * on_disk, ALWAYS_READ)
    if size > most:
        raise ValueError(
            f"arrays of {size:,} bytes in a folder of {on_disk:,} bytes, expected at most {most:,}"
        )
    _check_chunks(arrays, stored_keys)
    for array in arrays.values():
        array.read().result()


def _check_chunks(arrays: Mapping[str, Any], stored: int) -> None:
    """Refuse chunks too large for the memory, where tensorstore ends the process, or too many.

    Orbax's chunks are never larger than their array.
    """
    count = 0
    for name, array in arrays.items():
        layout = array.chunk_layout
        for chunk in (layout.read_chunk.shape, layout.write_chunk.shape):
            pairs = list(zip(chunk or (), array.shape, strict=True))  # a scalar has none
            if any(part > max(size, 1) for part, size in pairs):
                raise ValueError(
                    f"chunks of shape {chunk} of {shown(name)}, which is {array.shape}"
                )
        count += math.prod(-(-size // part) for part, size in pairs)
    if count > stored + MOST_ABSENT:
        raise ValueError(f"arrays of {count:,} chunks, of which at most {stored:,} are there")


def _metadata(folder: Path) -> dict[str, Any]:
    try:
        metadata = json.loads((folder / METADATA).read_text())
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        raise ValueError(f"its file {METADATA} is not a JSON object")
    return metadata


def _arrays(folder: Path, metadata: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The arrays by name, opened, not yet read, and how many keys are stored.

    The keys are files, or in a database of tensorstore's.
    """
    import tensorstore

    driver, described = DRIVERS[bool(metadata.get("use_zarr3", False))]
    sparse = not metadata.get("store_array_data_equal_to_fill_value", False)
    files = {"driver": "file", "path": f"{folder}/"}
    in_database = metadata.get("use_ocdbt", False)
    store = {"driver": "ocdbt", "base": files, "path": ""} if in_database else files
    arrays = {}
    keys = tensorstore.KvStore.open(store).result().list().result()
    for key in keys:
        owner, _, name = key.decode().rpartition("/")
        if name == described:
            place = {**store, "path": f"{store['path']}{owner}/"}
            spec = {"driver": driver, "kvstore": place, "fill_missing_data_reads": sparse}
            arrays[owner] = tensorstore.open(spec).result()
    return arrays, len(keys)
