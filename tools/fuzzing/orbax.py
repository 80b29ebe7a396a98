"""Damaged folders of Orbax."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from flax import nnx

import flax_bilstm as fb
from flax_bilstm.checkpoints import orbax_writing
from tools.fuzzing import damage, folders
from tools.fuzzing.folders import Folder, made
from tools.fuzzing.values import JSON, changed, pick


@functools.cache
def originals() -> Sequence[Folder]:
    """Arrays in a database, with an optimizer too, and in files, of both kinds and of a step."""
    import optax
    import orbax.checkpoint as ocp

    lstm = fb.LSTM(2, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.state(nnx.Optimizer(lstm, optax.adam(1e-3), wrt=nnx.Param))
    tree = {"model": nnx.to_pure_dict(nnx.state(lstm, nnx.Param))}

    def save(path: Path, **options: bool) -> None:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
            checkpointer.save(path, tree)

    plain = made(lambda path: save(path, use_ocdbt=False))
    return [
        made(lambda path: orbax_writing.write(lstm, path)),
        made(lambda path: orbax_writing.write(lstm, path, optimizer)),
        plain,
        made(lambda path: save(path, use_ocdbt=False, use_zarr3=True)),
        {f"100/default/{name}": content for name, content in plain.items()},
    ]


def write(rng: np.random.Generator, path: Path) -> None:
    """Write a folder with damaged files, some with a change inside the database of arrays."""
    folder = dict(pick(originals(), rng))
    folder, replaced = folders.damaged(folder, rng)
    folders.written(folder, replaced, path)
    if rng.random() < 0.2 and "manifest.ocdbt" in folder and not replaced:  # a FIFO would block
        _change_database(rng, path)


def _change_database(rng: np.random.Generator, path: Path) -> None:
    """A change in the database, whose own checksums then fit."""
    import tensorstore

    base = {"driver": "file", "path": f"{path}/"}
    try:
        arrays = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
        names = arrays.list().result()
        name = pick(names, rng)
        content = arrays.read(name).result().value
        if content.startswith(b"{") and rng.random() < 0.8:
            new = json.dumps(changed(json.loads(content), rng, JSON)).encode()
        else:
            new = pick(damage.CHANGES, rng)(content, [content], rng)
        arrays.write(name, new).result()
    except ValueError:  # it is damaged already
        return
