"""What JAX's own libraries write: Orbax's folders, of nnx states and of Linen's variables."""

import errno
import functools
import json
import operator
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm import checkpoints
from flax_bilstm.checkpoints import orbax_checks, orbax_folder, orbax_writing

pytest.importorskip("torch")


def orbax_step(path: Path, model: Any) -> Path:
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(path) as manager:
        for step in (9, 10):
            scaled = jax.tree.map(functools.partial(operator.mul, step), nnx.state(model))
            manager.save(step, args=ocp.args.StandardSave(scaled))
    return path


@pytest.mark.parametrize("inside", ["", "10", "10/default"])
def test_an_orbax_checkpoint_manager_and_its_steps(inside: str, tmp_path: Path) -> None:
    model = fb.LSTM(2, 3, rngs=nnx.Rngs(0))
    path = orbax_step(tmp_path / "run", model) / inside
    read = checkpoints.read(path)
    for name, array in fb.state_dict(model).items():
        np.testing.assert_array_equal(read.tensors[name], array * 10)
    assert any("read: " in note for note in read.notes) == (inside != "10/default")


@pytest.mark.parametrize(
    "other", ["plots_2026", "2026/plots", ".flax-bilstm-abcdefg99", ".flax-bilstm-abcdefg99/new"]
)
def test_folders_beside_the_steps_of_a_manager(other: str, tmp_path: Path) -> None:
    """Whose names end in digits, as that of a temporary folder may; one was taken for a step."""
    path = orbax_step(tmp_path / "run", fb.LSTM(2, 3, rngs=nnx.Rngs(0)))
    if other.endswith("new"):
        shutil.copytree(path / "9" / "default", path / other)
    else:
        (path / other).mkdir(parents=True)
    assert "read: 10/default" in checkpoints.read(path).notes


def test_linen_variables_and_a_train_state(tmp_path: Path) -> None:
    import optax
    import orbax.checkpoint as ocp
    from flax.training.train_state import TrainState

    from flax_bilstm import linen

    model = fb.LSTM(2, 3, rngs=nnx.Rngs(0))
    variables = linen.to_variables(model)
    state = TrainState.create(
        apply_fn=lambda: None, params=variables["params"], tx=optax.adam(1e-3)
    )
    for name, tree in {"variables": variables, "train_state": state}.items():
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / name, tree)
        read = checkpoints.read(tmp_path / name)
        for key, array in fb.state_dict(model).items():
            np.testing.assert_array_equal(read.tensors[key], array)


def test_prefix_of_an_orbax_checkpoint(tmp_path: Path) -> None:
    import orbax.checkpoint as ocp

    class Larger(nnx.Module):
        def __init__(self) -> None:
            self.encoder = fb.LSTM(2, 3, bidirectional=True, rngs=nnx.Rngs(0))
            self.head = nnx.Linear(6, 2, rngs=nnx.Rngs(0))

    larger = Larger()
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "run", nnx.state(larger))
    loaded = fb.load(tmp_path / "run", prefix="encoder.")
    for name, array in fb.state_dict(larger.encoder).items():
        np.testing.assert_array_equal(fb.state_dict(loaded)[name], array)


class OneArray(nnx.Module):
    def __init__(self, count: int):
        self.weight = nnx.Param(jnp.full(count, 0.5))


def test_equal_numbers_which_take_almost_nothing_on_the_disk(tmp_path: Path) -> None:
    orbax_writing.write(OneArray(2**22), tmp_path / "run")
    on_disk = sum(file.stat().st_size for file in (tmp_path / "run").rglob("*") if file.is_file())
    assert on_disk * orbax_checks.LARGEST_RATIO < 4 * 2**22
    (array,) = orbax_folder.read(tmp_path / "run").tree["model"].values()
    np.testing.assert_array_equal(array, np.full(2**22, 0.5, "f4"))


@pytest.mark.parametrize("count", [2**30 + 1, 2**45])
def test_arrays_of_more_bytes_than_any_memory(count: int, tmp_path: Path) -> None:
    """The shape in the folder is replaced: a few bytes that ask for 4 GiB and 128 TiB."""
    import tensorstore

    orbax_writing.write(OneArray(3), tmp_path / "run")
    base = {"driver": "file", "path": f"{tmp_path / 'run'}/"}
    arrays = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    (name,) = (key for key in arrays.list().result() if key.endswith(b".zarray"))
    described = json.loads(arrays.read(name).result().value) | {"shape": [count]}
    arrays.write(name, json.dumps(described).encode()).result()
    with pytest.raises(ValueError, match=f"arrays of {4 * count:,} bytes .* at most 4,294,967,296"):
        checkpoints.read(tmp_path / "run")


@pytest.mark.parametrize(
    ("number", "name", "room"),
    [
        (errno.ENOSPC, "shutil.disk_usage", lambda path: SimpleNamespace(free=2**18)),
        (errno.EFBIG, "resource.getrlimit", lambda kind: (2**18, -1)),
    ],
)
def test_without_room_orbax_does_not_begin(
    number: int, name: str, room: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbax.checkpoint.StandardCheckpointer", None)
    monkeypatch.setattr(name, room)
    path = tmp_path / "model.orbax"
    says = r"could not be written: .*, 262,\d+ bytes are needed, and there is room for 262,144\.$"
    with pytest.raises(OSError, match=f"^{path}: {says}") as error:
        fb.save(fb.LSTM(3, 4, rngs=nnx.Rngs(0)), path)
    assert error.value.errno == number
    assert list(tmp_path.iterdir()) == []
