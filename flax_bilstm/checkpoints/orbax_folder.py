"""Orbax checkpoint directories: {"model": nnx.state(model), "optimizer": nnx.state(optimizer)}.

"optimizer" is there where one is carried. A training loop restores it as it restores its own:

    checkpointer.restore(path, {"model": nnx.state(model), "optimizer": nnx.state(optimizer)})

Trees without "model" at the top, and pure dicts, are read too. Orbax is imported when it is needed.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from flax import nnx

from flax_bilstm.conversion.layers import KINDS
from flax_bilstm.conversion.rows import variables
from flax_bilstm.lstm import LSTM
from flax_bilstm.network import BiLSTMWithAttention

RANDOM_STATE = "rngs"  # of dropout: no parameter


def read(path: Path) -> dict[str, Any]:
    """The tree, its model as arrays by Flax path, with dots, in {"model": …}.

    Raises:
        ValueError: the folder is no Orbax checkpoint of one tree, or is damaged.
    """
    if not (path / "_METADATA").is_file():
        inside = sorted(child.name for child in path.iterdir())[:8]
        raise ValueError(
            f"{path}: expected the folder of one tree that Orbax wrote, with a file _METADATA, got "
            f"a folder with {', '.join(inside) or 'nothing'} in it. Of an ocp.CheckpointManager, "
            "name one step's item, such as 100/default."
        )
    import orbax.checkpoint as ocp

    try:
        _read_through(path.absolute())
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            item = checkpointer.metadata(path.absolute()).item_metadata
            # As NumPy arrays they keep 64 bits and need none of the devices they were saved from.
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item.tree)
            tree = checkpointer.restore(
                path.absolute(), args=ocp.args.PyTreeRestore(restore_args=as_numpy)
            )
    except Exception as error:  # damaged files can end in any exception at all
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path}: expected an Orbax checkpoint, got a damaged one: {first}. Copy or save it "
            "again."
        ) from error
    model = tree.pop("model", tree)
    leaves = {".".join(path): leaf for path, leaf in flatten(model)}
    return {"model": leaves, **(tree if model is not tree else {})}


def _read_through(path: Path) -> None:
    """Read all bytes of a database of arrays, one by one, so that damage is one exception.

    Orbax reads them at once, and reports of those that it leaves behind after the first failure.
    """
    import tensorstore

    if json.loads((path / "_METADATA").read_text()).get("use_ocdbt", False):
        base = {"driver": "file", "path": f"{path}/"}
        arrays = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
        names = arrays.list().result()
        if not names:
            raise ValueError("its arrays are missing")
        for name in names:
            arrays.read(name).result()


def write(module: nnx.Module, path: Path, optimizer: Mapping[str, Any] | None = None) -> None:
    """Write a module's variables, and beside them the optimizer's if there is one.

    `optimizer` is `nnx.state(optimizer)`.
    """
    import orbax.checkpoint as ocp

    model: dict[str, Any] = {}
    for keys, variable in variables(module).items():
        leaf = model
        for key in keys:
            leaf = leaf.setdefault(str(key), {})
        leaf["value"] = np.asarray(variable.get_value())
    tree = {"model": model}
    if optimizer is not None:
        tree["optimizer"] = jax.tree.map(np.asarray, optimizer)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), tree)


def flatten(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path → leaf, without the "value" that an nnx.Variable ends in."""
    if isinstance(tree, Mapping):
        for key, branch in tree.items():
            if key != RANDOM_STATE:
                yield from flatten(branch, (*path, str(key)))
    elif isinstance(tree, (list, tuple)):
        yield from flatten(dict(enumerate(tree)), path)
    else:
        yield path[:-1] if path[-1:] == ("value",) else path, tree


def to_torch(leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our own modules' variables under torch's names; others under their Flax paths, to be refused.

    Args:
        leaves: Flax path, with dots → array.
    """
    lstm = SimpleNamespace(num_layers=len(leaves), num_directions=2)  # at most so many
    network = SimpleNamespace(lstm=lstm)
    if any(path.startswith("lstm.") for path in leaves):
        entries = KINDS[BiLSTMWithAttention].entries(network)
    else:
        entries = KINDS[LSTM].entries(lstm)
    known, rest = {}, dict(leaves)
    for entry in entries:
        if entry.variables[0] in rest:
            (known[entry.tensors[0]],) = entry.transform.to_torch([rest.pop(entry.variables[0])])
    return known | rest
