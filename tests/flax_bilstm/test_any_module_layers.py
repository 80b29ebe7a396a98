"""What a module of the user's own is made of: layers stacked, Flax's, of their own kinds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm import conversion
from flax_bilstm.conversion import layers


class Normalized(nnx.Module):
    def __init__(self, rngs):
        self.bn = nnx.BatchNorm(3, rngs=rngs)


def test_the_count_of_batches_is_kept_where_flax_has_none():
    model = Normalized(nnx.Rngs(0))
    state_dict = fb.state_dict(model)
    assert state_dict["bn.num_batches_tracked"].dtype == np.int64
    state_dict["bn.num_batches_tracked"] = np.array(12345)
    fb.load_state_dict(model, state_dict)
    assert isinstance(model.bn.num_batches_tracked, fb.Unused)
    assert fb.state_dict(model)["bn.num_batches_tracked"] == 12345
    fb.load_state_dict(model, fb.state_dict(model))
    other = Normalized(nnx.Rngs(0))
    ignore = ("*.num_batches_tracked",)
    fb.load_state_dict(other, fb.state_dict(other), ignore=ignore)
    assert not hasattr(other.bn, "num_batches_tracked")


def test_an_orbax_folder_brings_the_count_of_batches_along(tmp_path):
    model = Normalized(nnx.Rngs(0))
    state_dict = fb.state_dict(model) | {"bn.num_batches_tracked": np.array(12345)}
    fb.load_state_dict(model, state_dict)
    fb.save(model, tmp_path / "model.orbax")
    fresh = fb.load(tmp_path / "model.orbax", into=Normalized(nnx.Rngs(1)))
    assert fb.state_dict(fresh)["bn.num_batches_tracked"] == 12345


def stack_of(make, count):
    """`count` modules stacked by nnx.vmap."""
    return nnx.split_rngs(splits=count)(nnx.vmap(make, in_axes=0, out_axes=0))(nnx.Rngs(0))


class Stack(nnx.Module):
    def __init__(self):
        self.layers = stack_of(lambda rngs: fb.LSTM(3, 3, rngs=rngs), 2)


def test_stacked_modules_are_a_module_list():
    state_dict = fb.state_dict(Stack())
    assert len(state_dict) == 8
    assert state_dict["layers.1.weight_ih_l0"].shape == (12, 3)
    under = fb.state_dict(Stack(), names={"layers": "h.*.cell"})
    assert "h.1.cell.weight_ih_l0" in under
    model = Stack()
    fb.load_state_dict(model, {n: a + 1 for n, a in state_dict.items()})
    back = fb.state_dict(model)
    np.testing.assert_array_equal(
        back["layers.1.bias_hh_l0"], state_dict["layers.1.bias_hh_l0"] + 1
    )


class WithFlaxCells(nnx.Module):
    def __init__(self, cell, rngs):
        self.rnn = nnx.RNN(cell(3, 4, rngs=rngs))


@pytest.mark.parametrize("cell", [nnx.LSTMCell, nnx.OptimizedLSTMCell])
def test_cells_of_flax_take_the_sum_of_two_biases_where_asked_to(cell):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    reference = torch.nn.LSTM(3, 4, batch_first=True)
    model = WithFlaxCells(cell, nnx.Rngs(0))
    names = {"rnn.cell": fb.SummedBiases("", "_l0")}
    fb.load_state_dict(model, reference.state_dict(), names=names)
    x = np.random.default_rng(0).standard_normal((2, 5, 3), dtype=np.float32)
    with jax.numpy_rank_promotion("allow"):
        outputs = model.rnn(x)
    expected, _ = reference(torch.tensor(x))
    np.testing.assert_allclose(outputs, expected.detach().numpy(), atol=1e-6)
    back = fb.state_dict(model, names=names)
    np.testing.assert_array_equal(back["weight_hh_l0"], reference.weight_hh_l0.detach().numpy())
    both = (reference.bias_ih_l0 + reference.bias_hh_l0).detach().numpy()
    np.testing.assert_array_equal(back["bias_ih_l0"] + back["bias_hh_l0"], both)


class Scaled(nnx.Module):
    """A layer kind of the user's own."""

    def __init__(self):
        self.log_gain = nnx.Param(jnp.zeros((2, 3)))


@pytest.fixture
def own_kind():
    yield
    layers.KINDS.pop(Scaled, None)


@pytest.mark.usefixtures("own_kind")
def test_a_layer_kind_of_the_users_own():
    fb.register_layer(Scaled, [("gain", "log_gain", conversion.TRANSPOSED)])

    class Outer(nnx.Module):
        def __init__(self):
            self.gain = Scaled()

    model = Outer()
    fb.load_state_dict(model, {"gain.gain": np.arange(6, dtype="f4").reshape(3, 2)})
    assert model.gain.log_gain[1, 0] == 1


@pytest.mark.parametrize(
    "row", [("gain", "log_gain"), ("gain", "log_gain", np.transpose), ("gain", "log_gain", None), 1]
)
def test_a_row_of_another_form_is_refused(row):
    """Of the private function: the tests' type checker is before the public one."""
    with pytest.raises(TypeError, match="rows: expected"):
        layers._entries([row])


@pytest.mark.usefixtures("own_kind")
def test_a_transform_that_raises_is_named():
    fails = conversion.each(lambda leaf: leaf.T, lambda tensor: tensor.reshape(5, 5))
    fb.register_layer(Scaled, [("gain", "log_gain", fails)])
    with pytest.raises(ValueError, match="transform: gain: cannot reshape"):
        fb.load_state_dict(Scaled(), {"gain": np.ones((3, 2), "f4")})


@pytest.mark.usefixtures("own_kind")
def test_a_transform_that_loses_something_is_refused():
    half = conversion.each(lambda leaf: leaf.T, lambda tensor: 0 * tensor.T)
    fb.register_layer(Scaled, [("gain", "log_gain", half)])
    with pytest.raises(ValueError, match="not exact: gain"):
        fb.load_state_dict(Scaled(), {"gain": np.ones((3, 2), "f4")})


def test_a_mask_of_minus_infinity_is_a_buffer_and_a_parameter_is_not():
    class Masked(nnx.Module):
        def __init__(self):
            self.mask = nnx.Variable(jnp.zeros(2))
            self.weight = nnx.Param(jnp.zeros(2))

    infinite = np.array([-np.inf, 0], "f4")
    model = Masked()
    fb.load_state_dict(model, {"mask": infinite, "weight": np.zeros(2, "f4")})
    assert np.isneginf(model.mask[0])
    with pytest.raises(ValueError, match="not finite: weight"):
        fb.load_state_dict(model, {"mask": infinite, "weight": infinite})


def test_plain_containers_of_modules():
    class Loose(nnx.Module):
        def __init__(self, rngs):
            self.parts = nnx.data({"a": nnx.Linear(2, 2, rngs=rngs), "b": [nnx.Param(jnp.ones(1))]})

    assert list(fb.state_dict(Loose(nnx.Rngs(0)))) == [
        "parts.a.weight",
        "parts.a.bias",
        "parts.b.0",
    ]
