"""What people bring: all that is read gives the tensors that PyTorch holds, bit for bit."""

import argparse
import collections
import datetime
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm import checkpoints
from flax_bilstm.cli import main

torch = pytest.importorskip("torch")

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


class Ordered(collections.OrderedDict):  # type: ignore[type-arg]
    """A subclass as Lightning, fairseq and others have them."""


def state_dict(hidden: int = 3) -> dict[str, Any]:
    torch.manual_seed(0)
    return dict(torch.nn.LSTM(2, hidden).state_dict())


def assert_holds(path: Path, expected: dict[str, Any], **options: Any) -> Any:
    read = checkpoints.read(path, **options)
    assert set(read.tensors) == set(expected)
    for name, tensor in expected.items():
        got, want = read.tensors[name], tensor.detach()
        assert (str(want.dtype), tuple(want.shape)) == (f"torch.{got.dtype.name}", got.shape)
        wide = np.complex128 if got.dtype.kind == "c" else np.float64
        np.testing.assert_array_equal(
            got.astype(wide), want.to(torch.complex128).numpy().astype(wide)
            if got.dtype.kind == "c" else want.double().numpy()
        )  # fmt: skip
    return read


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
     ("state_dict", "current_model_state")],
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


def parametrized() -> Any:
    return torch.nn.utils.parametrizations.weight_norm(torch.nn.LSTM(2, 3), "weight_hh_l0")


def old_weight_norm() -> Any:
    with warnings.catch_warnings(action="ignore"):
        return torch.nn.utils.weight_norm(torch.nn.LSTM(2, 3), "weight_hh_l0", dim=1)


def pruned() -> Any:
    from torch.nn.utils import prune

    lstm = torch.nn.LSTM(2, 3)
    prune.random_unstructured(lstm, "weight_hh_l0", 0.5)
    return lstm


@pytest.mark.parametrize("make", [parametrized, old_weight_norm, pruned])
def test_weights_in_parts_are_folded_and_named(make: Callable[[], Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    lstm = make()
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.mul_(1.5)
        lstm(torch.ones(1, 1, 2))  # old hooks set the weight as they run
    torch.save(lstm.state_dict(), tmp_path / "model.pt")
    read = checkpoints.read(tmp_path / "model.pt")
    assert set(read.tensors) == set(torch.nn.LSTM(2, 3).state_dict())
    expected = lstm.weight_hh_l0.detach().numpy()
    np.testing.assert_allclose(read.tensors["weight_hh_l0"], expected, rtol=2e-7)
    assert any(note.startswith("folded: ") for note in read.notes)


def test_an_unknown_parametrization_is_refused_in_words(tmp_path: Path) -> None:
    linear = torch.nn.utils.parametrizations.orthogonal(torch.nn.Linear(2, 2))
    torch.save(linear.state_dict(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="remove_parametrizations"):
        fb.load(tmp_path / "model.pt")
    with pytest.raises(ValueError, match="remove_parametrizations"):
        fb.load(tmp_path / "model.pt", into=nnx.Linear(2, 2, rngs=nnx.Rngs(0)))


class InParts(nnx.Module):
    """weight_norm written in Flax, with the parts as they are, and a layer that has it whole."""

    def __init__(self) -> None:
        self.proj = nnx.Dict(g=nnx.Param(jnp.zeros((3, 1))), v=nnx.Param(jnp.zeros((3, 2))))
        self.proj.bias = nnx.Param(jnp.zeros(3))
        self.head = nnx.Linear(3, 2, rngs=nnx.Rngs(0))


def test_parts_that_a_module_has_itself_are_not_folded(tmp_path: Path) -> None:
    normalized = torch.nn.utils.parametrizations.weight_norm
    model = torch.nn.ModuleDict(
        {"proj": normalized(torch.nn.Linear(2, 3)), "head": normalized(torch.nn.Linear(3, 2))}
    )
    torch.save(model.state_dict(), tmp_path / "model.pt")
    parts = {"g": "original0", "v": "original1"}
    names = {f"proj.{k}": f"proj.parametrizations.weight.{part}" for k, part in parts.items()}
    port = fb.load(tmp_path / "model.pt", into=InParts(), names=names)
    for flax, part in parts.items():
        expected = model.state_dict()[f"proj.parametrizations.weight.{part}"]
        np.testing.assert_array_equal(port.proj[flax][...], expected)
    expected = model["head"].weight.detach().numpy()
    np.testing.assert_allclose(port.head.kernel[...].T, expected, rtol=2e-7)


@pytest.mark.parametrize("kind", ["weight_norm", "orthogonal"])
def test_parts_are_converted_to_the_bit(kind: str, tmp_path: Path) -> None:
    model = getattr(torch.nn.utils.parametrizations, kind)(torch.nn.Linear(2, 2))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    for source, target in [("model.pt", "a.safetensors"), ("a.safetensors", "back.pt")]:
        assert main(["convert", str(tmp_path / source), str(tmp_path / target)]) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert back.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(back[name], tensor)


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


def orbax_step(path: Path, model: Any) -> Path:
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(path) as manager:
        for step in (9, 10):
            scaled = jax.tree.map(lambda a: a * step, nnx.state(model))  # noqa: B023
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
