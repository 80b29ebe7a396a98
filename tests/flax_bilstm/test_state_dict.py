"""The conversion: bit-exact, strict, and never the wrong way round."""

import itertools
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import flax_bilstm as fb
from flax_bilstm.conversion import layers
from flax_bilstm.conversion.rows import rows, variables
from flax_bilstm.conversion.transforms import SAME, TRANSPOSED

NETWORK = {"input_dim": 5, "hidden_dim": 3, "output_dim": 2}
LSTMS = [
    {"num_layers": n, "bias": bias, "bidirectional": both, "proj_size": proj}
    for n, bias, both, proj in itertools.product((1, 2), (True, False), (True, False), (0, 2))
]
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32]


def network(**options):
    return fb.BiLSTMWithAttention(**NETWORK, rngs=nnx.Rngs(0), **options)


def numbered(module, dtype=np.float32):
    """A state dict for module in which no two numbers are equal."""
    count = itertools.count(1)
    return {
        name: np.array([next(count) / 512 for _ in range(value.size)], dtype).reshape(value.shape)
        for name, value in fb.state_dict(module).items()
    }


def assert_same_bits(actual, expected):
    assert list(actual) == list(expected)
    for name in expected:
        assert actual[name].dtype == expected[name].dtype, name
        assert actual[name].shape == expected[name].shape, name
        assert actual[name].tobytes() == expected[name].tobytes(), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_network_round_trip_is_bit_exact(dtype):
    arrays = numbered(network(), dtype)
    model = fb.from_state_dict(arrays)
    assert isinstance(model, fb.BiLSTMWithAttention)
    assert (model.lstm.input_size, model.lstm.hidden_size, model.fc.out_features) == (5, 3, 2)
    assert_same_bits(fb.state_dict(model), arrays)


@pytest.mark.parametrize("options", LSTMS, ids=str)
def test_lstm_round_trip_is_bit_exact_and_options_are_read_off(options):
    arrays = numbered(fb.LSTM(5, 4, **options, rngs=nnx.Rngs(0)))
    lstm = fb.from_state_dict(arrays)
    assert isinstance(lstm, fb.LSTM)
    assert (lstm.input_size, lstm.hidden_size) == (5, 4)
    assert {name: getattr(lstm, name) for name in options} == options
    assert_same_bits(fb.state_dict(lstm), arrays)


@pytest.mark.usefixtures("x64")
def test_float64_round_trip():
    arrays = numbered(network(), np.float64)
    assert_same_bits(fb.state_dict(fb.from_state_dict(arrays)), arrays)


def test_float64_is_never_rounded_unasked():
    arrays = numbered(network(), np.float64)
    with pytest.raises(ValueError, match=r"jax_enable_x64.*param_dtype"):
        fb.from_state_dict(arrays)
    model = fb.from_state_dict(arrays, param_dtype=jnp.float32)
    assert_same_bits(fb.state_dict(model), {n: a.astype("f4") for n, a in arrays.items()})


@settings(max_examples=6)  # each compiles the drawing of new shapes
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
def test_sizes_are_read_off_any_network(input_dim, hidden_dim, output_dim):
    abstract = nnx.eval_shape(
        lambda: fb.BiLSTMWithAttention(input_dim, hidden_dim, output_dim, rngs=nnx.Rngs(0))
    )
    arrays = {
        row.torch_names[0]: row.to_torch([np.zeros(leaf.shape, "f4")])[0]
        for row in rows(abstract)
        for leaf in [variables(abstract)[row.paths[0]]]
    }
    model = fb.from_state_dict(arrays)
    assert model.lstm.input_size == input_dim
    assert model.lstm.hidden_size == hidden_dim
    assert model.fc.out_features == output_dim


SQUARE = [
    # (sizes, the torch names that are square matrices then)
    ({"input_dim": 12, "hidden_dim": 3, "output_dim": 6}, "lstm.weight_ih_l0"),
    ({"input_dim": 12, "hidden_dim": 3, "output_dim": 6}, "attention.attn.weight"),
    ({"input_dim": 12, "hidden_dim": 3, "output_dim": 6}, "fc.weight"),
]


@pytest.mark.parametrize(("sizes", "name"), SQUARE)
def test_a_square_matrix_is_transposed_like_any_other(sizes, name):
    arrays = numbered(fb.BiLSTMWithAttention(**sizes, rngs=nnx.Rngs(0)))
    assert arrays[name].shape[0] == arrays[name].shape[1]
    model = fb.from_state_dict(arrays)
    (row,) = [row for row in rows(model) if row.torch_names == (name,)]
    leaf = variables(model)[row.paths[0]][...]
    np.testing.assert_array_equal(leaf, arrays[name].T)
    assert not np.array_equal(leaf, arrays[name])


def leaf_of(module, torch_name):
    """The leaf that a torch name means, spelled out a second time, not read from the table."""
    *owners, name = torch_name.split(".")
    if owners in ([], ["lstm"]):
        lstm = module.lstm if owners else module
        kind, layer, reverse = re.fullmatch(r"(\w+?_\w\w)_l(\d)(_reverse)?", name).groups()
        cell = getattr(lstm.layers[int(layer)], "reverse" if reverse else "forward")
        return getattr(cell, kind.replace("weight", "kernel"))
    for owner in owners:
        module = getattr(module, owner)
    return module.kernel if name == "weight" else module.bias


def assert_each_lands_in_its_own_leaf(module, arrays):
    fb.load_state_dict(module, arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(
            leaf_of(module, name)[...], array.T if array.ndim == 2 else array, err_msg=name
        )


MODULES = {
    fb.BiLSTMWithAttention: network,
    fb.LSTM: lambda: fb.LSTM(4, 2, proj_size=1, num_layers=2, rngs=nnx.Rngs(0)),
}
BROKEN = [
    pytest.param(kind, name, broken, id=f"{kind.__name__} {name} {broken}")
    for kind, make in MODULES.items()
    for name in fb.state_dict(make())
    for broken in ("left out", "sent elsewhere", "turned round")
    if broken != "turned round" or "weight" in name  # vectors have no other way round
    if broken != "left out" or kind is fb.LSTM  # the network's parts are kinds themselves
]


@pytest.mark.parametrize("kind", MODULES)
def test_each_tensor_lands_in_its_own_leaf_the_right_way_round(kind):
    module = MODULES[kind]()
    assert_each_lands_in_its_own_leaf(module, numbered(module))


@pytest.mark.parametrize(("kind", "name", "broken"), BROKEN)
def test_a_broken_row_does_not_go_unnoticed(kind, name, broken, monkeypatch):
    module = MODULES[kind]()
    arrays = numbered(module)

    def damaged(layer):
        def entries(module):
            whole = list(real.entries(module))
            index = next(i for i, each in enumerate(whole) if each.tensors == (name,))
            if broken == "left out":
                del whole[index]
            elif broken == "sent elsewhere":
                like = [i for i, e in enumerate(whole) if e.transform == whole[index].transform]
                other = like[like.index(index) - 1]
                one, two = whole[index], whole[other]
                whole[index] = one._replace(variables=two.variables)
                whole[other] = two._replace(variables=one.variables)
            else:
                assert whole[index].transform is TRANSPOSED
                whole[index] = whole[index]._replace(transform=SAME)
            return whole

        real = layers.KINDS[layer]
        return real._replace(entries=entries)

    monkeypatch.setitem(layers.KINDS, kind, damaged(kind))
    with pytest.raises((TypeError, ValueError, AssertionError)):
        assert_each_lands_in_its_own_leaf(module, arrays)


def test_dropout_state_is_no_tensor_of_the_state_dict():
    lstm = fb.LSTM(5, 4, num_layers=2, dropout=0.5, rngs=nnx.Rngs(0))
    arrays = fb.state_dict(lstm)
    assert len(arrays) == 8
    assert fb.from_state_dict(arrays, dropout=0.5, rngs=nnx.Rngs(1)).dropout.rate == 0.5


def test_loading_keeps_each_leaf_where_it_is():
    device = jax.devices()[0]
    model = jax.device_put(network(), device)
    fb.load_state_dict(model, numbered(model))
    leaves = jax.tree.leaves(nnx.state(model))
    assert all(leaf.sharding.device_set == {device} for leaf in leaves)


def test_the_loaded_module_owns_its_memory():
    arrays = numbered(network())
    model = fb.from_state_dict(arrays)
    before = fb.state_dict(model)
    for array in arrays.values():
        array += 1
    assert_same_bits(fb.state_dict(model), before)
