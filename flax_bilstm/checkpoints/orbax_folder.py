"""Reads Orbax checkpoint directories.

They hold {"model": nnx.state(model), "optimizer": nnx.state(optimizer)}; "optimizer" is there if it
was saved. A training loop restores it as usual:

    checkpointer.restore(path, {"model": nnx.state(model), "optimizer": nnx.state(optimizer)})

Trees without "model" at the top, and pure dicts, are read too. Orbax is imported when it is needed.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from flax_bilstm.checkpoints.mapped import Content
from flax_bilstm.checkpoints.orbax_checks import METADATA, check_arrays, check_files
from flax_bilstm.conversion.layers import KINDS
from flax_bilstm.lstm import LSTM
from flax_bilstm.network import BiLSTMWithAttention
from flax_bilstm.showing import shown

RANDOM_STATE = "rngs"  # dropout's, not a parameter
STEP = re.compile(r"\D*(\d{1,18})")
ITEMS = ("default", "state", "model", "params")
"""Items of a step of an ocp.CheckpointManager; the first of these that exists is read."""


def read(path: Path) -> Content:
    """The tree, with its model as {"model": …}: arrays by Flax path, with dots.

    The folder is that of a tree, of a step that contains one, or of an ocp.CheckpointManager, whose
    latest step is read. For Linen's variables, all collections are the model.

    Raises:
        ValueError: the folder is not an Orbax checkpoint of one tree, or is damaged.
    """
    folder = _tree_folder(path)
    check_files(folder)
    try:
        tree = _restore(folder)
    except Exception as error:  # damaged files can raise any exception
        in_words = isinstance(error, ValueError) and str(error)
        first = str(error).splitlines()[0] if in_words else type(error).__name__
        raise ValueError(
            f"expected an Orbax checkpoint, got a damaged one: {shown(first)}. Copy or save it "
            "again."
        ) from error
    notes = [f"read: {folder.relative_to(path)}"] if folder != path else []
    model, rest = _model(tree)
    if rest:
        notes.append(f"beside it: {', '.join(map(shown, rest))}")
    leaves = {".".join(keys): leaf for keys, leaf in flatten(model)}
    return Content({"model": leaves, **rest}, tuple(notes))


def _tree_folder(path: Path) -> Path:
    """The folder of a tree at or below `path`: the latest step, the usual item."""
    for _ in range(3):
        if (path / METADATA).is_file():
            return path
        inside = sorted(child.name for child in path.iterdir() if _may_hold_a_tree(child))
        steps = {int(match[1]): name for name in inside if (match := STEP.fullmatch(name))}
        items = [name for name in inside if (path / name / METADATA).is_file()]
        usual = [name for name in ITEMS if name in items]
        if steps:
            path = path / steps[max(steps)]
        elif usual or len(items) == 1:
            path = path / (usual or items)[0]
        else:
            break
    inside = sorted(child.name for child in path.iterdir())[:8]
    raise ValueError(
        f"expected the folder of one tree that Orbax wrote, with a file {METADATA}, got a folder "
        f"with {', '.join(map(shown, inside)) or 'nothing'} in it. Of an ocp.CheckpointManager, "
        "name one step's item, such as 100/default."
    )


def _may_hold_a_tree(folder: Path) -> bool:
    """Whether a folder is a tree's or has one inside, and is not hidden, as a temporary one is."""
    trees = (METADATA, f"*/{METADATA}")
    return not folder.name.startswith(".") and any(any(folder.glob(each)) for each in trees)


def _restore(folder: Path) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    folder = folder.absolute()
    check_arrays(folder)
    # It warns of coroutines that it does not await after an error.
    without_warnings = warnings.catch_warnings(action="ignore", category=RuntimeWarning)
    with without_warnings, ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        item = checkpointer.metadata(folder).item_metadata
        if item is None:
            raise ValueError(f"its file {METADATA} does not describe its arrays")
        # As NumPy arrays they keep 64 bits and do not need the devices that they were saved from.
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item.tree)
        return checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))


def _model(tree: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model's part of a tree, and the rest. Knows our trees, Linen's variables, TrainState."""
    if "model" in tree:
        return tree["model"], {key: value for key, value in tree.items() if key != "model"}
    if not isinstance(tree.get("params"), Mapping):
        return tree, {}
    rest = {key: value for key, value in tree.items() if key in ("step", "opt_state")}
    collections = {key: value for key, value in tree.items() if key not in rest}
    inner = collections["params"]
    if set(collections) == {"params"} and isinstance(inner.get("params"), Mapping):
        collections = inner  # variables in a TrainState
    merged: dict[str, Any] = {}
    for collection in collections.values():
        _merge(merged, collection)
    return merged, rest


def _merge(into: dict[str, Any], tree: Any) -> None:
    for key, branch in tree.items() if isinstance(tree, Mapping) else ():
        if isinstance(branch, Mapping):
            _merge(into.setdefault(key, {}), branch)
        else:
            into[key] = branch


def flatten(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path → leaf, without the "value" at the end of an nnx.Variable's path."""
    if isinstance(tree, Mapping):
        for key, branch in tree.items():
            if key != RANDOM_STATE:
                yield from flatten(branch, (*path, str(key)))
    elif isinstance(tree, (list, tuple)):
        yield from flatten(dict(enumerate(tree)), path)
    else:
        yield path[:-1] if path[-1:] == ("value",) else path, tree


def to_torch(leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """This library's modules under torch's names; others under Flax paths, and refused later.

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
