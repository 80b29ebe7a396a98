"""Folders that people bring: shards of Hugging Face, and torch.distributed.checkpoint's."""

import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm import checkpoints
from flax_bilstm.cli import main

torch = pytest.importorskip("torch")

from .brought import assert_holds, state_dict


@pytest.mark.parametrize("what", ["folder", "index"])
def test_a_hugging_face_folder_of_shards(what: str, tmp_path: Path) -> None:
    import json

    from safetensors.torch import save_file

    names = list(state_dict())
    shards = {"a.safetensors": names[:2], "b.safetensors": names[2:]}
    for shard, inside in shards.items():
        save_file({name: state_dict()[name] for name in inside}, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {n: s for s, ns in shards.items() for n in ns}}))
    assert_holds(tmp_path if what == "folder" else index, state_dict())
    index.write_text(json.dumps({"weight_map": {"x": "../a.safetensors"}}))
    with pytest.raises(ValueError, match="expected shards beside the index"):
        checkpoints.read(index)


def test_a_folder_of_distributed_checkpoints(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings(action="ignore"):
        dcp.save({"model": state_dict(), "epoch": 3}, checkpoint_id=tmp_path / "step")
    assert_holds(tmp_path / "step", state_dict())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_an_optimizer_in_a_folder_of_distributed_checkpoints(
    momentum: float, tmp_path: Path
) -> None:
    import torch.distributed.checkpoint as dcp

    lstm = torch.nn.LSTM(3, 4)
    optimizer = torch.optim.SGD(lstm.parameters(), lr=0.1, momentum=momentum)
    lstm(torch.ones(1, 1, 3))[0].sum().backward()
    optimizer.step()
    content = {"model": lstm.state_dict(), "optimizer": optimizer.state_dict()}
    with warnings.catch_warnings(action="ignore"):
        dcp.save(content, checkpoint_id=tmp_path / "step")
    read = checkpoints.read(tmp_path / "step").optimizer
    assert read is not None
    expected = content["optimizer"]["state"]
    assert read["state"].keys() == expected.keys()
    for number, moments in expected.items():
        buffer = moments["momentum_buffer"]
        np.testing.assert_array_equal(read["state"][number]["momentum_buffer"], buffer)
    (group,) = read["param_groups"]
    assert group["params"] == [0, 1, 2, 3]
    assert group["lr"] == 0.1


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("file", ["folder", "file"])
def test_an_optimizer_whose_state_is_by_name(flat: bool, file: str, tmp_path: Path) -> None:
    """As torch.distributed.checkpoint.state_dict makes it, of an optimizer with another order."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    lstm = torch.nn.LSTM(3, 4)
    order = list(reversed(list(lstm.named_parameters())))
    groups = [{"params": [each for _, each in order[:1]], "lr": 0.5},
              {"params": [each for _, each in order[1:]]}]  # fmt: skip
    adam = torch.optim.AdamW(groups, lr=0.25, weight_decay=0.125)
    lstm(torch.ones(1, 1, 3))[0].sum().backward()
    adam.step()
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    optimizer = get_optimizer_state_dict(lstm, adam, options=options)
    assert any(key.startswith("state.bias_hh_l0.") for key in optimizer) == flat
    content = {"model": lstm.state_dict(), "optim": optimizer}
    if file == "folder":
        with warnings.catch_warnings(action="ignore"):
            dcp.save(content, checkpoint_id=tmp_path / "step")
    else:
        torch.save(content, tmp_path / "step")

    read = checkpoints.read(tmp_path / "step").optimizer
    assert read is not None
    model = fb.from_state_dict(lstm.state_dict())
    names = [name for name, _ in order]
    found = nnx.state(fb.optimizer_from_torch(model, read))
    expected = nnx.state(fb.optimizer_from_torch(model, adam.state_dict(), names))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert main(["convert", str(tmp_path / "step"), str(tmp_path / "out.orbax")]) == 0
