"""What is no state dict of ours is refused as a whole, with all that is wrong with it."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb

torch = pytest.importorskip("torch")


def network():
    return fb.BiLSTMWithAttention(5, 3, 2, rngs=nnx.Rngs(0))


def held_by(module):
    """Its state dict, to be changed."""
    return {name: np.array(array) for name, array in fb.state_dict(module).items()}


def test_all_problems_come_in_one_error_and_nothing_is_loaded():
    model = network()
    before, arrays = held_by(model), held_by(model)
    del arrays["lstm.bias_ih_l0"]
    arrays["surplus"] = np.zeros(3, "f4")
    arrays["fc.weight"] = arrays["fc.weight"].T
    arrays["fc.bias"] = arrays["fc.bias"].astype(np.float16)
    arrays["lstm.weight_hh_l0"][2, 1] = np.nan
    arrays["attention.attn.bias"][0] = np.inf
    with pytest.raises(ValueError, match="missing: ") as caught:
        fb.load_state_dict(model, arrays)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert sorted(lines) == sorted(
        [
            "missing: lstm.bias_ih_l0, expected shape (12,)",
            "unexpected: surplus, shape (3,)",
            "shape: fc.weight, expected (2, 6), got (6, 2)",
            "dtype: fc.bias, expected float32, got float16",
            "not finite: lstm.weight_hh_l0, 1 of 36 values, the first at (2, 1)",
            "not finite: attention.attn.bias, 1 of 6 values, the first at (0,)",
        ]
    )
    assert "nothing was loaded" in str(caught.value)
    for name, array in fb.state_dict(model).items():
        assert array.tobytes() == before[name].tobytes(), name


def test_mixed_dtypes_are_refused():
    arrays = held_by(network())
    arrays["fc.bias"] = arrays["fc.bias"].astype(np.float16)
    with pytest.raises(ValueError, match=r"dtype: fc\.bias, expected float32, got float16"):
        fb.from_state_dict(arrays)


@pytest.mark.parametrize("missing", ["lstm.weight_ih_l0", "lstm.weight_hh_l0", "fc.weight"])
def test_a_tensor_that_tells_sizes_is_missing_among_other_faults(missing):
    arrays = held_by(network())
    del arrays[missing], arrays["lstm.bias_hh_l0"]
    arrays["fc.bias"][0] = np.nan
    arrays["surplus"] = np.zeros(3, "f4")
    with pytest.raises(ValueError, match="missing: ") as caught:
        fb.from_state_dict(arrays)
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        f"missing: {missing}, which determines sizes",
        "missing: lstm.bias_hh_l0, expected shape unknown",
        "unexpected: surplus, shape (3,)",
        "not finite: fc.bias, 1 of 2 values, the first at (0,)",
    ]


def test_a_transposed_matrix_that_tells_sizes():
    arrays = held_by(network())
    arrays["lstm.weight_ih_l0"] = arrays["lstm.weight_ih_l0"].T
    with pytest.raises(
        ValueError, match=r"shape: lstm\.weight_ih_l0, .*multiples of 4, got \(5, 12\)"
    ):
        fb.from_state_dict(arrays)


@pytest.mark.parametrize("shape", [(0, 5), (12, 0), (12,), (13, 5)])
def test_what_tells_no_size(shape):
    arrays = held_by(network())
    arrays["lstm.weight_ih_l0"] = np.zeros(shape, "f4")
    with pytest.raises(
        ValueError, match="shape: lstm.weight_ih_l0, .* got " + re.escape(str(shape))
    ):
        fb.from_state_dict(arrays)


def test_a_layer_number_that_leaves_a_gap_is_unexpected():
    arrays = held_by(fb.LSTM(5, 4, rngs=nnx.Rngs(0)))
    arrays["weight_ih_l99999999"] = arrays["weight_ih_l0"]
    with pytest.raises(ValueError, match="unexpected: weight_ih_l99999999"):
        fb.from_state_dict(arrays)


def test_a_cast_takes_no_integers():
    arrays = held_by(network())
    arrays["fc.bias"] = arrays["fc.bias"].astype(np.int64)
    with pytest.raises(ValueError, match=r"dtype: fc\.bias, expected float32, got int64"):
        fb.from_state_dict(arrays, param_dtype=jnp.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "expected the names of an nn.LSTM"),
        ({"conv.weight": np.zeros(3, "f4")}, r"conv\.weight"),
        ({"module.lstm.weight_ih_l0": np.zeros((4, 1), "f4")}, r"one under module\. \("),
        ({"weight_ih_l0": object()}, "expected a tensor or array, got object"),
    ],
)
def test_what_is_no_state_dict_is_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        fb.from_state_dict(arrays)


WEIGHT = torch.ones(16, 6)
LONG, RED = "a" * 100_000, "\x1b[31m\nname"
CALLS_WITH_NAMES = {
    "unexpected": lambda name: fb.from_state_dict(held_by(network()) | {name: WEIGHT}),
    "missing": lambda name: fb.load_state_dict(nnx.Dict({name: nnx.Param(jnp.ones(3))}), {}),
    "no numbers": lambda name: fb.from_state_dict({name: object()}),
    "no LSTM": lambda name: fb.from_state_dict({f"{name}.conv": WEIGHT}),
    "inside": lambda name: fb.from_state_dict({f"{name}.weight_ih_l0": WEIGHT}),
    "names": lambda name: fb.state_dict(network(), names={name: "a"}),
    "names twice": lambda name: fb.state_dict(
        network(), names={"fc.kernel": name, "fc.bias": name}
    ),
    "ignore": lambda name: fb.load_state_dict(
        network(), {**held_by(network()), "a": WEIGHT}, ignore=[name]
    ),
    "optimizer": lambda name: fb.optimizer_from_torch(
        fb.LSTM(6, 4, rngs=nnx.Rngs(0)),
        {"param_groups": [{"params": [0], "lr": 1.0, name: 1}], "state": {}}, [name],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [LONG, RED], ids=["long", "red"])
@pytest.mark.parametrize("call", CALLS_WITH_NAMES)
def test_messages_are_bounded_and_do_not_print_control_characters(call, name):
    with pytest.raises((ValueError, TypeError)) as caught:
        CALLS_WITH_NAMES[call](name)
    message = str(caught.value)
    assert len(message) < 10_000
    assert "\x1b" not in message
    assert "\nname" not in message


def test_only_what_helps_is_advised():
    def advised(arrays):
        with pytest.raises(ValueError, match="nothing was loaded") as caught:
            fb.load_state_dict(network(), arrays)
        first = str(caught.value).splitlines()[0]
        return {word for word in ("names=", "ignore=", "prefix=", "param_dtype=") if word in first}

    arrays = held_by(network())
    bias = arrays.pop("fc.bias")
    assert advised(arrays) == {"ignore="}
    assert advised(arrays | {"head.bias": bias}) == {"names=", "ignore="}
    assert advised(arrays | {"fc.bias": bias[:1]}) == set()
    assert advised(arrays | {"fc.bias": bias * np.nan}) == set()
    assert advised(arrays | {"fc.bias": bias.astype(np.float16)}) == {"param_dtype="}
    inside = {f"model.net.{name}": array for name, array in held_by(network()).items()}
    assert advised(inside) == {"names=", "ignore=", "prefix="}


@pytest.mark.parametrize("prefix", ["", "encoder."])
@pytest.mark.parametrize("kind", ["GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_other_recurrent_classes_are_named(kind, prefix):
    tensors = getattr(torch.nn, kind)(6, 4).state_dict()
    arrays = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    into = "fb.LSTMCell" if kind == "LSTMCell" else "a module of your own"
    message = rf"got those of an nn\.{kind}\(input_size=6, hidden_size=4\); load them into {into}"
    with pytest.raises(ValueError, match=message):
        fb.from_state_dict(arrays)


def test_the_tensors_of_a_cell_load_into_a_cell():
    tensors = torch.nn.LSTMCell(6, 4).state_dict()
    cell = fb.LSTMCell(6, 4, rngs=nnx.Rngs(0))
    fb.load_state_dict(cell, tensors)
    assert fb.state_dict(cell)["weight_hh"].tolist() == tensors["weight_hh"].tolist()


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_mapping_is_refused():
    with pytest.raises(ValueError, match="expected a mapping from names to tensors, got list"):
        fb.from_state_dict([("a", 1)])


def test_integers_are_refused():
    arrays = {name: a.astype(np.int32) for name, a in held_by(network()).items()}
    with pytest.raises(ValueError, match=r"floating.*int32"):
        fb.from_state_dict(arrays)


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"expected an nnx\.Module, got dict"):
        fb.state_dict({})


def test_a_variable_of_the_users_own_is_a_tensor_of_the_same_name():
    model = network()
    arrays = held_by(model)
    model.extra = nnx.Param(jnp.zeros(3))
    with pytest.raises(ValueError, match="missing: extra"):
        fb.load_state_dict(model, arrays)
    arrays["extra"] = np.arange(3, dtype="f4")
    fb.load_state_dict(model, arrays)
    assert model.extra[...].tolist() == [0, 1, 2]
