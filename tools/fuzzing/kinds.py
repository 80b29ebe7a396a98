"""The kinds of checkpoints that are damaged: their good originals, and how a case is made."""

import functools
import io
import json
import pickle
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

import flax_bilstm as fb
from flax_bilstm.checkpoints import orbax_writing, safetensors_file, torch_writing
from tools.fuzzing import damage, folders
from tools.fuzzing.folders import Folder
from tools.fuzzing.values import ARRAYS, JSON, changed


class Kind(NamedTuple):
    """One kind of checkpoint.

    Attributes:
        title: its name.
        share: the share of its cases in a run.
        good: makes good ones, which must be read; each is written to a path.
        write: makes the damaged checkpoint of a generator's numbers at a path.
        target: the ending of what it is converted to, which gives the format.
    """

    title: str
    share: float
    good: Callable[[], Sequence[Callable[[Path], Any]]]
    write: Callable[[np.random.Generator, Path], None]
    target: str = ".safetensors"


def _file(rng: np.random.Generator, path: Path) -> None:
    path.write_bytes(damage.damaged(_files(), rng))


_files = functools.cache(damage.corpus)


def _good_files() -> list[Callable[[Path], Any]]:
    return [functools.partial(_put, content) for content in _files()]


def _put(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _good(folders_of: Callable[[], Sequence[Folder]]) -> Callable[[], list[Callable[[Path], Any]]]:
    return lambda: [functools.partial(folders.written, each, {}) for each in folders_of()]


def _folder(rng: np.random.Generator, path: Path, originals: Sequence[Folder]) -> None:
    folder, replaced = folders.damaged(dict(originals[rng.integers(len(originals))]), rng)
    folders.written(folder, replaced, path)


def _made(save: Callable[[Path], Any]) -> Folder:
    """The files that `save` writes to the folder that it is given."""
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings(action="ignore"):
        save(Path(temporary) / "folder")
        return folders.held(Path(temporary) / "folder")


@functools.cache
def _orbax_folders() -> list[Folder]:
    """Arrays in a database, with an optimizer, in a step's folder; arrays in files of both kinds."""
    import optax
    import orbax.checkpoint as ocp

    lstm = fb.LSTM(2, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.state(nnx.Optimizer(lstm, optax.adam(1e-3), wrt=nnx.Param))
    tree = {"model": nnx.to_pure_dict(nnx.state(lstm, nnx.Param))}

    def save(path: Path, **options: bool) -> None:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
            checkpointer.save(path, tree)

    plain = _made(lambda path: save(path, use_ocdbt=False))
    return [
        _made(lambda path: orbax_writing.write(lstm, path)),
        _made(lambda path: orbax_writing.write(lstm, path, optimizer)),
        plain,
        _made(lambda path: save(path, use_ocdbt=False, use_zarr3=True)),
        {f"100/default/{name}": content for name, content in plain.items()},
    ]


def _orbax(rng: np.random.Generator, path: Path) -> None:
    _folder(rng, path, _orbax_folders())
    database = rng.random() < 0.2 and (path / "manifest.ocdbt").is_file()
    if database:
        _change_database(rng, path)


def _change_database(rng: np.random.Generator, path: Path) -> None:
    """A change to what is in the database of arrays, which has checksums of its own."""
    import tensorstore

    base = {"driver": "file", "path": f"{path}/"}
    try:
        arrays = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
        names = arrays.list().result()
        name = names[rng.integers(len(names))]
        content = arrays.read(name).result().value
        if content.startswith(b"{") and rng.random() < 0.8:
            new = json.dumps(changed(json.loads(content), rng, JSON)).encode()
        else:
            new = damage.CHANGES[rng.integers(len(damage.CHANGES))](content, [content], rng)
        arrays.write(name, new).result()
    except ValueError:  # it is damaged already
        return


def _arrays(part: slice = slice(None)) -> dict[str, np.ndarray]:
    whole = {"weight_ih_l0": np.ones((4, 2), np.float32), "weight_hh_l0": np.ones((4, 1), np.float32),
             "bias_ih_l0": np.zeros(4, np.float32), "bias_hh_l0": np.zeros(4, np.float32)}  # fmt: skip
    return dict(list(whole.items())[part])


@functools.cache
def _hugging_face_folders() -> list[Folder]:
    """One file; shards of both formats."""

    def save(path: Path, index: str | None, shards: dict[str, slice]) -> None:
        path.mkdir()
        write = (torch_writing if "pytorch" in str(index) else safetensors_file).write
        for name, part in shards.items():
            write(_arrays(part), path / name)
        if index is not None:
            places = {name: shard for shard, part in shards.items() for name in _arrays(part)}
            (path / index).write_text(json.dumps({"metadata": {}, "weight_map": places}))

    halves = slice(None, 2), slice(2, None)
    overlap = slice(None, 3), slice(1, None)
    index = "model.safetensors.index.json"
    return [
        _made(lambda path: save(path, None, {"model.safetensors": slice(None)})),
        _made(
            lambda path: save(path, index, dict(zip(("a.safetensors", "b.safetensors"), halves)))
        ),
        _made(
            lambda path: save(path, index, dict(zip(("a.safetensors", "b.safetensors"), overlap)))
        ),
        _made(lambda path: save(path, "pytorch_model.bin.index.json", dict(zip("ab", halves)))),
    ]


def _hugging_face(rng: np.random.Generator, path: Path) -> None:
    _folder(rng, path, _hugging_face_folders())


@functools.cache
def _distributed_folders() -> list[Folder]:
    """Weights alone, with an optimizer, with a flat one, and a tensor in two pieces."""
    import torch
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    torch.manual_seed(0)
    lstm = torch.nn.LSTM(2, 1)
    adam = torch.optim.Adam(lstm.parameters())
    lstm(torch.ones(1, 1, 2))[0].sum().backward()
    adam.step()
    flat = StateDictOptions(flatten_optimizer_state_dict=True)
    contents: list[dict[str, Any]] = [
        {"model": lstm.state_dict(), "epoch": 3},
        {"model": lstm.state_dict(), "optim": adam.state_dict()},
        {"model": lstm.state_dict(), "optim": get_optimizer_state_dict(lstm, adam, options=flat)},
    ]
    made = [_made(lambda path: dcp.save(each, checkpoint_id=path)) for each in contents]  # noqa: B023
    return [*made, _in_pieces(made[0])]


def _in_pieces(folder: Folder) -> Folder:
    """The folder with its first weight in two pieces, as of two processes."""
    import torch
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

    metadata = pickle.loads(folder[".metadata"])
    (old,) = [index for index in metadata.storage_data if index.fqn == "model.weight_ih_l0"]
    stored = metadata.storage_data.pop(old)
    chunks, pieces = [], b""
    for row in (0, 2):
        written = io.BytesIO()
        torch.save(torch.ones(2, 2), written)
        offset, size = torch.Size([row, 0]), torch.Size([2, 2])
        place = type(stored)("pieces.distcp", len(pieces), len(written.getvalue()))
        metadata.storage_data[MetadataIndex(old.fqn, offset)] = place
        chunks.append(ChunkStorageMetadata(offset, size))
        pieces += written.getvalue()
    metadata.state_dict_metadata[old.fqn].chunks = chunks
    return folder | {".metadata": pickle.dumps(metadata), "pieces.distcp": pieces}


def _distributed(rng: np.random.Generator, path: Path) -> None:
    originals = _distributed_folders()
    folder = dict(originals[rng.integers(len(originals))])
    if rng.random() < 0.6:
        tree = changed(pickle.loads(folder[".metadata"]), rng, JSON + ARRAYS)
        folder[".metadata"] = pickle.dumps(tree)
        folders.written(folder, {}, path)
    else:
        folders.written(*folders.damaged(folder, rng), path)


@functools.cache
def _optimizers() -> list[Any]:
    """Checkpoints of every optimizer that converts: with names and without, of several groups."""
    import torch

    def state(named: bool, several: bool, make: Callable[..., Any]) -> Any:
        torch.manual_seed(0)
        lstm = torch.nn.LSTM(2, 1)
        with torch.no_grad():
            for parameter in lstm.parameters():
                parameter.fill_(1.0)
        parameters = list(lstm.named_parameters() if named else lstm.parameters())
        groups = [{"params": parameters[:1], "lr": 0.5}, {"params": parameters[1:]}]
        optimizer = make(groups if several else parameters)
        lstm(torch.ones(1, 1, 2))[0].sum().backward()
        optimizer.step()
        return _plain(optimizer.state_dict())

    optim = torch.optim
    makers: list[Callable[..., Any]] = [
        optim.Adam,
        functools.partial(optim.AdamW, weight_decay=0.1),
        functools.partial(optim.SGD, momentum=0.9, nesterov=True),
        functools.partial(optim.RMSprop, centered=True),
        optim.Adadelta,
    ]
    return [
        {"state_dict": _arrays(), "optimizer": state(named, several, make)}
        for make in makers
        for named, several in [(True, False), (False, False), (True, True)]
    ]


def _plain(value: Any) -> Any:
    """A state with NumPy's arrays in place of PyTorch's tensors."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value))
    return value.numpy() if hasattr(value, "numpy") else value


def _optimizer(rng: np.random.Generator, path: Path) -> None:
    originals = _optimizers()
    content = originals[rng.integers(len(originals))]
    state = content["optimizer"]
    for _ in range(rng.integers(1, 4)):
        state = changed(state, rng, JSON + ARRAYS)
    path.write_bytes(pickle.dumps(content | {"optimizer": state}))


def _good_optimizers() -> list[Callable[[Path], Any]]:
    return [functools.partial(_put, pickle.dumps(content)) for content in _optimizers()]


KINDS = (
    Kind("files", 0.4, _good_files, _file),
    Kind("Orbax folders", 0.25, _good(_orbax_folders), _orbax),
    Kind("torch.distributed.checkpoint folders", 0.15, _good(_distributed_folders), _distributed),
    Kind("Hugging Face folders", 0.1, _good(_hugging_face_folders), _hugging_face),
    Kind("states of optimizers", 0.1, _good_optimizers, _optimizer, ".orbax"),
)
