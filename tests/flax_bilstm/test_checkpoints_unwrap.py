"""Wrappings and prefixes: what is taken, what is said about it, and what is refused."""

from typing import Any

import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm import checkpoints
from flax_bilstm.checkpoints.unwrap import unwrap

STATE = {"lstm.weight": np.ones(2), "fc.bias": np.zeros(3)}


def under(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.model."],
)
@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
def test_wrappers_and_prefixes(key: str | None, prefix: str) -> None:
    content = under(prefix, STATE)
    wrapped = content if key is None else {"epoch": 3, key: content}
    found = unwrap(wrapped)
    assert list(found.tensors) == list(STATE)
    for name, array in STATE.items():
        np.testing.assert_array_equal(found.tensors[name], array)
    said = "\n".join(found.notes)
    assert (f"unwrapped: {key}" in said) == (key is not None)
    assert ("beside it: epoch" in said) == (key is not None)
    assert ("stripped" in said) == bool(prefix)
    if prefix:
        assert found.notes[-1] == f"stripped: {prefix.replace('.', '. ').rstrip()}"


def test_a_submodule_compiled_on_its_own() -> None:
    found = unwrap({"lstm._orig_mod.weight": np.ones(2), "fc.bias": np.zeros(3)})
    assert list(found.tensors) == list(STATE)
    assert found.notes == ("stripped: _orig_mod.",)


@pytest.mark.parametrize("prefix", ["encoder.", "encoder._orig_mod.", "model.encoder._orig_mod"])
def test_a_compiled_submodule_under_either_name(prefix: str) -> None:
    found = unwrap(under("model.encoder._orig_mod.", STATE) | {"model.fc": np.ones(1)}, prefix)
    assert list(found.tensors) == list(STATE)


@pytest.mark.parametrize("outer", ["", "module.", "model._orig_mod."])
@pytest.mark.parametrize("prefix", ["encoder", "encoder."])
def test_prefix_takes_one_submodule_and_names_the_rest(prefix: str, outer: str) -> None:
    content = under(outer, {"embed.weight": np.ones(1), **under("encoder.", STATE)})
    found = unwrap(content, prefix)
    assert list(found.tensors) == list(STATE)
    assert tuple(found.renamed.values()) == (None, "lstm.weight", "fc.bias")
    assert any("left out: 1 outside of encoder." in n and "embed.weight" in n for n in found.notes)


def test_a_prefix_that_not_all_names_share_stays() -> None:
    content = {"model.fc.bias": np.zeros(3), "criterion.weight": np.ones(1)}
    assert list(unwrap(content).tensors) == list(content)


@pytest.mark.parametrize("value", [{"param_groups": [], "state": {}}, None])
@pytest.mark.parametrize("key", ["optimizer_state_dict", "optimizer"])
def test_the_optimizer_is_found(key: str, value: Any) -> None:
    found = unwrap({"model": STATE, key: value})
    assert found.optimizer == value


def test_lightning_keeps_a_list_of_optimizers() -> None:
    one = {"param_groups": [], "state": {}}
    assert unwrap({"state_dict": STATE, "optimizer_states": [one]}).optimizer == one
    two = unwrap({"state_dict": STATE, "optimizer_states": [one, one]})
    assert two.optimizer is None
    assert "left out: the states of 2 optimizers; one can be read" in two.notes


@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_lies_flat_beside_the_tensors_is_left_out(prefix: str) -> None:
    optimizer = {"param_groups": [], "state": {}}
    beside = {"epoch": 1, "name": "x", "config": {"a": 1}, "optimizer": optimizer}
    read = unwrap({**{prefix + name: array for name, array in STATE.items()}, **beside})
    assert read.tensors.keys() == STATE.keys()
    assert list(read.renamed.values()) == list(STATE)
    assert read.optimizer is optimizer
    assert "left out: epoch (int), name (str), config (dict), optimizer (dict)" in read.notes


def test_another_model_is_named_with_how_to_choose_it() -> None:
    averaged = {"ema": {"state_dict": dict(STATE)}}
    read = unwrap({"state_dict": STATE, "callbacks": averaged, "stats": {"mean": np.ones(2)}})
    assert read.tensors.keys() == STATE.keys()
    assert "other state dicts, by --key: callbacks.ema.state_dict" in read.notes


@pytest.mark.parametrize(
    ("content", "prefix", "says"),
    [
        ({"logs": {"loss": 1.0}, "epoch": 1}, None, "keys logs, epoch .* by itself"),
        ({"epoch": 1, "name": "x"}, None, r"epoch \(int\), name \(str\); save"),
        ({**STATE, "bias_ih_l0": None}, None, r"of weights, got bias_ih_l0 \(NoneType\); save"),
        ({**STATE, "fc.packed": (1,)}, None, r"of weights, got fc.packed \(tuple\); save"),
        (STATE, "encoder", "prefix: expected one that names begin with, got 'encoder'"),
        (
            {"lstm.weight": np.ones(2), "lstm._orig_mod.weight": np.ones(2)},
            None,
            "expected them to differ",
        ),
    ],
)
def test_what_is_refused(content: dict[str, Any], prefix: str | None, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        unwrap(content, prefix)


@pytest.mark.parametrize(
    ("child", "wrapped"), [("model", ""), ("model", "module."), ("module", "")]
)
def test_a_module_whose_only_child_is_called_as_a_wrapper_keeps_the_name(child, wrapped, tmp_path):
    class Outer(nnx.Module):
        def __init__(self, seed):
            setattr(self, child, fb.LSTM(3, 2, rngs=nnx.Rngs(seed)))

    there, path = Outer(1), tmp_path / "model.safetensors"
    state_dict = fb.state_dict(there)
    checkpoints.SAFETENSORS.write({wrapped + n: a for n, a in state_dict.items()}, path)
    loaded = fb.load(path, into=Outer(2))
    for name, array in fb.state_dict(loaded).items():
        assert array.tobytes() == state_dict[name].tobytes()
