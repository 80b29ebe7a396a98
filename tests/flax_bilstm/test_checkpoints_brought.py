"""What people bring: all that is read gives the tensors that PyTorch holds, bit for bit."""

import argparse
import collections
import datetime
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flax_bilstm import checkpoints

torch = pytest.importorskip("torch")

from .brought import assert_holds, state_dict

DTYPES = [
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
    "complex64",
]


class Ordered(collections.OrderedDict[str, Any]):
    """A subclass as Lightning, fairseq and others have them."""


def save_zip(content: Any, path: Path) -> None:
    torch.save(content, path)


def save_legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def dump(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, 2))


WRITERS = [save_zip, save_legacy, dump]


@pytest.mark.parametrize("write", WRITERS)
def test_every_dtype_and_layout(write: Callable[..., None], tmp_path: Path) -> None:
    base = torch.randn(4, 5)
    tensors = {dtype: base.to(getattr(torch, dtype)) for dtype in DTYPES}
    tensors |= {
        "transposed": base.t(),
        "strided": torch.arange(10)[2:9:3],
        "expanded": torch.ones(1).expand(3, 5),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(base[0]),
        "shared": base[1:],
    }
    write(tensors, tmp_path / "model.pt")
    assert_holds(tmp_path / "model.pt", tensors)


BESIDE = {
    "numpy scalar": np.float64(0.5),
    "numpy array": np.arange(3.0),
    "numpy random state": np.random.RandomState(0).get_state(),
    "torch random state": torch.get_rng_state(),
    "namespace": argparse.Namespace(lr=0.1),
    "path": Path("run"),
    "datetime": datetime.datetime(2024, 1, 1),
    "defaultdict": collections.defaultdict(list, a=[1]),
    "module": torch.nn.Linear(2, 2),
    "set": {1, 2},
    "device": torch.device("cpu"),
    "dtype": torch.float32,
    "function": torch.relu,
}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("what", BESIDE)
def test_what_lies_beside_the_weights_refuses_nothing(
    what: str, write: Callable[..., None], tmp_path: Path
) -> None:
    write({"state_dict": state_dict(), "extra": BESIDE[what]}, tmp_path / "model.pt")
    assert_holds(tmp_path / "model.pt", state_dict())


def test_what_was_not_built_is_said(tmp_path: Path) -> None:
    torch.save(
        {"net": Ordered(state_dict()), "args": argparse.Namespace(lr=0.1)}, tmp_path / "model.pt"
    )
    notes = assert_holds(tmp_path / "model.pt", state_dict()).notes
    assert any("not built" in n and "argparse.Namespace" in n for n in notes)
    assert "unwrapped: net" in notes


@pytest.mark.parametrize(
    "name",
    ["model_best.pth.tar", "model.pkl", "model.PT", "model", "ckpt-1.5", "weights.safetensors"],
)
def test_the_content_tells_the_format(name: str, tmp_path: Path) -> None:
    torch.save(state_dict(), tmp_path / name)
    assert_holds(tmp_path / name, state_dict())


@pytest.mark.parametrize(
    "key", ["net", "network", "model_state", "module", "generator", "ema", "x"]
)
def test_one_state_dict_is_found_and_named(key: str, tmp_path: Path) -> None:
    torch.save({"epoch": 1, key: state_dict(), "metrics": {"loss": 0.5}}, tmp_path / "model.pt")
    assert f"unwrapped: {key}" in assert_holds(tmp_path / "model.pt", state_dict()).notes


@pytest.mark.parametrize(
    ("first", "second"),
    [("state_dict", "state_dict_ema"), ("model", "ema"), ("encoder", "decoder"),
     ("state_dict", "current_model_state"), ("generator", "discriminator"),
     ("state_dict", "best_state_dict")],
)  # fmt: skip
def test_of_several_state_dicts_one_is_chosen_by_key(
    first: str, second: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    torch.save({first: state_dict(), second: state_dict(4), "epoch": 1}, path)
    with pytest.raises(ValueError, match=f"several, under {first}, {second}; choose one by key="):
        checkpoints.read(path)
    assert_holds(path, state_dict(4), key=second)
    with pytest.raises(ValueError, match=r"key: expected one of .*, got other; the keys are"):
        checkpoints.read(path, key="other")


@pytest.mark.parametrize("key", ["optimizer", "optim", "opt", "optimizer_state", "anything"])
def test_the_optimizer_is_known_by_what_it_holds(key: str, tmp_path: Path) -> None:
    state = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]).state_dict()
    torch.save({"model": state_dict(), key: state}, tmp_path / "model.pt")
    read = checkpoints.read(tmp_path / "model.pt")
    assert read.optimizer is not None
    assert read.optimizer["param_groups"][0]["lr"] == 1e-3


@pytest.mark.parametrize(
    ("averaged", "live"), [("ema", "model"), ("state_dict", "current_model_state")]
)
def test_moments_are_never_put_beside_averaged_weights(
    averaged: str, live: str, tmp_path: Path
) -> None:
    state = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]).state_dict()
    content = {averaged: state_dict(), live: state_dict(), "optimizer": state}
    torch.save(content, tmp_path / "model.pt")
    assert checkpoints.read(tmp_path / "model.pt", key=averaged).optimizer is None
    assert checkpoints.read(tmp_path / "model.pt", key=live).optimizer is not None


@pytest.mark.parametrize(
    "wrapper",
    ["lstm.module.", "lstm._orig_mod.", "lstm._fsdp_wrapped_module.",
     "_fsdp_wrapped_module.lstm._checkpoint_wrapped_module.", "module.lstm._orig_mod.module."],
)  # fmt: skip
def test_wrappers_in_the_middle_of_names(wrapper: str, tmp_path: Path) -> None:
    content = {wrapper + name: tensor for name, tensor in state_dict().items()}
    torch.save(content | {"fc.bias": torch.ones(2)}, tmp_path / "model.pt")
    if wrapper.startswith("module."):  # which then not all names share
        content = {f"module.{name}": t for name, t in {"fc.bias": torch.ones(2)}.items()} | content
        torch.save(content, tmp_path / "model.pt")
    expected = {f"lstm.{name}": tensor for name, tensor in state_dict().items()}
    assert_holds(tmp_path / "model.pt", expected | {"fc.bias": torch.ones(2)})
