"""`load_state_dict` on modules of the user's own: names, ignored tensors, ties, errors."""

import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm.conversion import rows as conversion_rows


class Tagger(nnx.Module):
    def __init__(self, rngs):
        self.embedding = nnx.Embed(7, 3, rngs=rngs)
        self.lstm = fb.LSTM(3, 2, bidirectional=True, rngs=rngs)
        self.head = nnx.Linear(4, 5, rngs=rngs)
        self.scale = nnx.Param(jnp.ones(()))


def tagger():
    return Tagger(nnx.Rngs(0))


def renamed(state_dict, old, new):
    return {name.replace(old, new): array for name, array in state_dict.items()}


def snapshot(module):
    return {path: np.array(leaf) for path, leaf in enumerate(jax.tree.leaves(nnx.state(module)))}


def assert_untouched(module, before):
    for index, leaf in snapshot(module).items():
        np.testing.assert_array_equal(leaf, before[index])


def test_a_module_and_a_single_variable_are_called_otherwise():
    names = {"head": "classifier.0", "scale": "loss.temperature"}
    state_dict = fb.state_dict(tagger(), names=names)
    assert {"classifier.0.weight", "classifier.0.bias", "loss.temperature"} <= state_dict.keys()
    other = Tagger(nnx.Rngs(1))
    assert fb.load_state_dict(other, state_dict, names=names) == ((), ())
    np.testing.assert_array_equal(other.head.kernel[...], tagger().head.kernel[...])
    assert other.scale.shape == ()


def test_the_error_suggests_the_names():
    model, before = tagger(), snapshot(tagger())
    state_dict = renamed(fb.state_dict(model), "head.", "classifier.2.")
    with pytest.raises(ValueError, match=re.escape("missing: head.weight")) as caught:
        fb.load_state_dict(model, state_dict)
    assert 'likely: names={"head": "classifier.2"}' in str(caught.value)
    assert_untouched(model, before)
    fb.load_state_dict(model, state_dict, names={"head": "classifier.2"})


def test_the_names_of_a_moved_part_of_a_sequential_are_suggested():
    """nnx.Sequential has a Dropout where torch's has none, so the indices differ."""
    linears = [nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Linear(3, 1, rngs=nnx.Rngs(0))]
    theirs = nnx.Dict(net=nnx.Sequential(*linears))
    ours = nnx.Dict(net=nnx.Sequential(linears[0], nnx.Dropout(0.1), linears[1]))
    with pytest.raises(ValueError, match=re.escape('likely: names={"net.layers.2": "net.1"}')):
        fb.load_state_dict(ours, fb.state_dict(theirs))
    fb.load_state_dict(ours, fb.state_dict(theirs), names={"net.layers.2": "net.1"})


def test_of_two_modules_of_one_shape_the_one_with_the_like_name_is_suggested():
    model = tagger()
    state_dict = renamed(fb.state_dict(model), "head.", "old_head.")
    state_dict |= {"zzz.weight": np.zeros((5, 4), "f4"), "zzz.bias": np.zeros(5, "f4")}
    with pytest.raises(ValueError, match=re.escape('likely: names={"head": "old_head"}')):
        fb.load_state_dict(model, state_dict)


def test_an_unknown_path_in_names_is_an_error_with_the_nearest():
    with pytest.raises(ValueError, match=r"got 'heed'; did you mean one of \['head'"):
        fb.state_dict(tagger(), names={"heed": "classifier"})


def test_two_variables_under_one_torch_name():
    with pytest.raises(ValueError, match=r"got lstm\.weight_ih_l0 for both"):
        fb.state_dict(tagger(), names={"scale": "lstm.weight_ih_l0"})


def test_what_is_ignored_is_said():
    model = tagger()
    state_dict = fb.state_dict(model) | {"criterion.weight": np.ones(5, "f4")}
    del state_dict["scale"]
    skipped = fb.load_state_dict(model, state_dict, ignore=("criterion.*", "scale"))
    assert skipped.tensors == ("criterion.weight",)
    assert skipped.variables == ("scale",)


def test_loading_a_file_into_a_module_logs_what_is_ignored(tmp_path, caplog):
    path = tmp_path / "model.safetensors"
    fb.save(tagger(), path, names={"head": "out"})
    model = Tagger(nnx.Rngs(1))
    with caplog.at_level(logging.WARNING, "flax_bilstm"):
        fb.load(path, model, names={"head": "out"}, ignore=("scale",))
    assert "left out 1 tensor: scale" in caplog.text
    np.testing.assert_array_equal(model.head.kernel[...], tagger().head.kernel[...])


@pytest.mark.parametrize("name", ["model.safetensors", "model.orbax"])
def test_any_module_is_saved_and_loaded(name, tmp_path):
    fb.save(tagger(), tmp_path / name)
    model = fb.load(tmp_path / name, into=Tagger(nnx.Rngs(1)))
    assert_untouched(model, snapshot(tagger()))


def test_an_orbax_folder_of_another_module_is_refused(tmp_path):
    fb.save(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), tmp_path / "linear.orbax")
    model, before = tagger(), snapshot(tagger())
    with pytest.raises(ValueError, match=re.escape("missing: embedding.embedding")):
        fb.load(tmp_path / "linear.orbax", into=model)
    assert_untouched(model, before)


class Tied(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(4, 3, rngs=rngs)


TIED = {"embed": ("encoder", "decoder")}


def test_tied_tensors_must_be_equal_to_the_bit():
    model = Tied(nnx.Rngs(0))
    state_dict = fb.state_dict(model, names=TIED)
    assert list(state_dict) == ["encoder.weight", "decoder.weight"]
    state_dict["decoder.weight"] = np.nextafter(state_dict["decoder.weight"], np.float32(9))
    before = snapshot(model)
    with pytest.raises(ValueError, match=re.escape("tied: encoder.weight, decoder.weight")):
        fb.load_state_dict(model, state_dict, names=TIED)
    assert_untouched(model, before)


def test_a_wrong_name_of_a_tie_is_corrected():
    state_dict = fb.state_dict(Tied(nnx.Rngs(0)), names=TIED)
    with pytest.raises(ValueError, match=r"missing: decodr\.weight") as caught:
        fb.load_state_dict(Tied(nnx.Rngs(1)), state_dict, names={"embed": ("encoder", "decodr")})
    likely = {"embed.embedding": ("encoder.weight", "decoder.weight")}
    assert f"likely: names={likely}".replace("'", '"') in str(caught.value)
    fb.load_state_dict(Tied(nnx.Rngs(1)), state_dict, names=likely)


def test_negative_zero_is_not_zero_of_a_tied_tensor():
    state_dict = {
        "encoder.weight": np.zeros((4, 3), "f4"),
        "decoder.weight": -np.zeros((4, 3), "f4"),
    }
    with pytest.raises(ValueError, match="tied"):
        fb.load_state_dict(Tied(nnx.Rngs(0)), state_dict, names=TIED)


def test_summed_biases_of_another_layer_are_refused():
    with pytest.raises(ValueError, match=r"expected one of nnx\.OptimizedLSTMCell.* got Linear"):
        fb.state_dict(tagger(), names={"head": fb.SummedBiases("head")})


def test_one_string_as_ignore_is_refused():
    """Each of its letters was a pattern, and `*` ignored everything without an error."""
    model, before = tagger(), snapshot(tagger())
    state_dict = {name: array + 1 for name, array in fb.state_dict(model).items()}
    with pytest.raises(TypeError, match=r"pass \['criterion\.\*'\]"):
        fb.load_state_dict(model, state_dict, ignore="criterion.*")
    assert_untouched(model, before)


def test_a_pattern_that_matches_nothing_is_named_where_something_is_wrong():
    state_dict = fb.state_dict(tagger()) | {"criterion.weight": np.ones(5, "f4")}
    with pytest.raises(ValueError, match=r"note: ignore='loss\.\*' matches nothing"):
        fb.load_state_dict(tagger(), state_dict, ignore=("loss.*",))


@pytest.mark.parametrize("to", [None, 3, (), ("head", None)])
def test_what_is_no_torch_path_in_names(to):
    """Of the private function: the tests' type checker is before the public one."""
    with pytest.raises(TypeError, match="names: expected for 'head' a torch path"):
        conversion_rows._checked({"head": to})


def test_a_long_error_is_cut():
    state_dict = {f"surplus.{i}": np.zeros(1, "f4") for i in range(1000)}
    with pytest.raises(ValueError, match=r"and 9\d+ more") as caught:
        fb.load_state_dict(tagger(), state_dict)
    assert len(str(caught.value).splitlines()) < 60


def test_under_a_mesh_of_explicit_axes():
    state_dict = fb.state_dict(fb.LSTM(3, 2, rngs=nnx.Rngs(0)))
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        lstm = fb.from_state_dict(state_dict)
        model = tagger()
        fb.load_state_dict(model, fb.state_dict(tagger()))
        outputs, _ = lstm(jnp.ones((2, 4, 3)))
    assert outputs.shape == (2, 4, 2)
    np.testing.assert_array_equal(fb.state_dict(lstm)["bias_ih_l0"], state_dict["bias_ih_l0"])


def test_a_module_that_refers_to_the_one_around_it():
    model = tagger()
    model.head.parent = model
    assert len(fb.state_dict(model)) == len(fb.state_dict(tagger()))
