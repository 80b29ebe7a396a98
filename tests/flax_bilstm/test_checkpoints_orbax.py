"""What JAX's own libraries write: Orbax's folders, of nnx states and of Linen's variables."""

import functools
import operator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm import checkpoints

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
