"""Weights that a file holds in parts: weight_norm, pruning and other parametrizations."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm import checkpoints
from flax_bilstm.checkpoints.unwrap import folded
from flax_bilstm.cli import main

torch = pytest.importorskip("torch")


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


def dropped(whole: dict[str, Any], owner: str, copied: bool) -> dict[str, Any]:
    """An LSTM's state dict as fastai's WeightDropout has it: {owner}.{name}_raw, and the masked
    copy, if there is one, in {owner}.module.{name}."""
    stored = {f"{owner}module.{name}": tensor for name, tensor in whole.items()}
    masked = stored.pop(f"{owner}module.weight_hh_l0") * 0
    if copied:
        stored[f"{owner}module.weight_hh_l0"] = masked
    return stored | {f"{owner}weight_hh_l0_raw": whole["weight_hh_l0"]}


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("owner", ["", "0.rnns.0."])
def test_fastai_keeps_the_dropped_weight_outside_of_its_module(
    owner: str, copied: bool, tmp_path: Path
) -> None:
    whole = torch.nn.LSTM(2, 3).state_dict()
    torch.save(dropped(whole, owner, copied), tmp_path / "model.pt")
    read = folded(checkpoints.read(tmp_path / "model.pt"))
    assert set(read.tensors) == {f"{owner}module.{name}" for name in whole}
    found = read.tensors[f"{owner}module.weight_hh_l0"]
    np.testing.assert_array_equal(found, whole["weight_hh_l0"].numpy())
    assert read.notes[-1] == f"folded: weight dropping of {owner}module.weight_hh_l0 (1)"


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize(
    ("outer", "owner", "prefix"),
    [
        ("", "", "module"),
        ("", "0.rnns.0.", "0.rnns.0"),
        ("", "0.rnns.0.", "0.rnns.0.module"),
        ("module.", "0.rnns.0.", "0.rnns.0"),
        ("module.", "0.rnns.0.", "0.rnns.0.module"),
    ],
)
def test_a_prefix_takes_what_fastai_dropped_too(
    outer: str, owner: str, prefix: str, copied: bool, tmp_path: Path
) -> None:
    """Not the copy in the module, in which weights are zeros."""
    whole = torch.nn.LSTM(2, 3).state_dict()
    stored = dropped(whole, owner, copied) | {"1.weight": torch.ones(2, 2)}
    torch.save({outer + name: tensor for name, tensor in stored.items()}, tmp_path / "model.pt")
    lstm = fb.load(tmp_path / "model.pt", prefix=prefix)
    found = fb.state_dict(lstm)
    assert found.keys() == whole.keys()
    for name, tensor in whole.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
    if prefix == "0.rnns.0" and not outer:
        into = fb.load(tmp_path / "model.pt", into=Wrapped(), prefix=prefix)
        found = fb.state_dict(into.module)
        np.testing.assert_array_equal(found["weight_hh_l0"], whole["weight_hh_l0"].numpy())


class Wrapped(nnx.Module):
    """What fastai's WeightDropout is around an LSTM, without the dropout."""

    def __init__(self) -> None:
        self.module = fb.LSTM(2, 3, rngs=nnx.Rngs(0))


def test_what_fastai_dropped_loads_into_a_module(tmp_path: Path) -> None:
    whole = torch.nn.LSTM(2, 3).state_dict()
    stored = {f"module.{name}": tensor for name, tensor in whole.items()}
    stored["weight_hh_l0_raw"] = stored["module.weight_hh_l0"]
    stored["module.weight_hh_l0"] = stored["module.weight_hh_l0"] * 0
    torch.save(stored, tmp_path / "model.pt")
    into = fb.load(tmp_path / "model.pt", into=Wrapped())
    found = fb.state_dict(into.module)
    np.testing.assert_array_equal(found["weight_hh_l0"], whole["weight_hh_l0"].numpy())


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
