"""LSTMCell: torch.nn.LSTMCell's numbers in Flax's conventions for cells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb


def test_parameters_by_name_and_shape():
    cell = fb.LSTMCell(3, 5, proj_size=2, rngs=nnx.Rngs(0))
    shapes = {path[0]: leaf.shape for path, leaf in nnx.to_flat_state(nnx.state(cell, nnx.Param))}
    assert shapes == {
        "kernel_ih": (3, 20),
        "kernel_hh": (2, 20),
        "bias_ih": (20,),
        "bias_hh": (20,),
        "kernel_hr": (5, 2),
    }
    bare = nnx.state(fb.LSTMCell(3, 5, bias=False, rngs=nnx.Rngs(0)))
    assert {path[0] for path, _ in nnx.to_flat_state(bare)} == {"kernel_ih", "kernel_hh"}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [(), (1,), (4,)])
def test_against_torch(assert_close, bias, batch):
    torch = pytest.importorskip("torch")
    reference = torch.nn.LSTMCell(3, 5, bias=bias, dtype=torch.float64)
    cell = fb.LSTMCell(3, 5, bias=bias, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    for name, parameter in reference.named_parameters():
        leaf = getattr(cell, name.replace("weight", "kernel"))
        leaf[...] = jnp.asarray(parameter.detach().numpy().T)
    rng = np.random.default_rng(0)
    x, h, c = (rng.normal(size=(*batch, size)) for size in (3, 5, 5))
    with torch.no_grad():
        expected = reference(torch.tensor(x), (torch.tensor(h), torch.tensor(c)))
    carry, output = jax.jit(cell)((jnp.asarray(c), jnp.asarray(h)), jnp.asarray(x))
    actual = {"h": carry[1], "c": carry[0]}
    assert_close(actual, dict(zip(actual, expected, strict=True)), 1e-13)
    np.testing.assert_array_equal(output, carry[1])


def test_carry_starts_at_0_as_c_and_h():
    cell = fb.LSTMCell(3, 5, proj_size=2, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    c, h = cell.initialize_carry((4, 3))
    assert (c.shape, c.dtype, h.shape, h.dtype) == ((4, 5), jnp.float32, (4, 2), jnp.bfloat16)
    assert not c.any()
    assert not h.any()
    (c, h), output = cell((c, h), jnp.ones((4, 3)))
    assert (c.shape, c.dtype, h.shape, h.dtype) == ((4, 5), jnp.float32, (4, 2), jnp.bfloat16)
    assert output is h


def test_carry_drawn_from_the_carry_stream():
    cell = fb.LSTMCell(3, 5, rngs=nnx.Rngs(0))
    draw = nnx.initializers.normal()
    c, h = cell.initialize_carry((4, 3), nnx.Rngs(carry=1), draw)
    again, _ = cell.initialize_carry((4, 3), nnx.Rngs(carry=1), draw)
    other, _ = cell.initialize_carry((4, 3), nnx.Rngs(carry=2), draw)
    assert (c != h).any()
    assert (c == again).all()
    assert (c != other).any()
    with pytest.raises(ValueError, match=r"rngs: expected nnx\.Rngs to draw carry_init from"):
        cell.initialize_carry((4, 3), None, draw)


@pytest.mark.parametrize("shape", [(), (4,), (2, 4)])
def test_inputs_of_another_width(shape):
    cell = fb.LSTMCell(3, 5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"inputs: expected \(\.\.\., input_size=3\),.* got shape"):
        cell(cell.initialize_carry((2, 3)), jnp.ones(shape))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 5, 0), "input_size: expected an integer of at least 1, got 0"),
        ((3, 1.0, 0), "hidden_size: expected an integer of at least 1, got 1.0"),
        ((3, 5, 5), "proj_size: expected 0 .* less than hidden_size = 5, got 5"),
        ((3, 5, -1), "proj_size: expected 0 .* less than hidden_size = 5, got -1"),
    ],
)
def test_sizes_out_of_range(sizes, message):
    with pytest.raises(ValueError, match=message):
        fb.LSTMCell(*sizes[:2], proj_size=sizes[2], rngs=nnx.Rngs(0))


def test_under_jit_grad_and_vmap(assert_close):
    cell = fb.LSTMCell(3, 5, rngs=nnx.Rngs(0))
    carry, x = cell.initialize_carry((4, 3)), jax.random.normal(jax.random.key(0), (4, 3))

    def loss(x, carry):
        return jnp.sum(cell(carry, x)[1] ** 2)

    expected = jax.grad(loss)(x, carry)  # operation by operation
    assert expected.any()
    assert_close({"d x": jax.jit(jax.grad(loss))(x, carry)}, {"d x": expected}, 1e-6)
    assert_close({"d x": jax.vmap(jax.grad(loss))(x, carry)}, {"d x": expected}, 1e-6)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("carry", "inputs", "message"),
    [
        (((2, 5), (2, 5)), np.zeros((2, 3), "i4"), "inputs: .*floating, got .*int32"),
        (((2, 4), (2, 5)), np.zeros((2, 3), "f4"), r"carry c: expected .*\(2, 5\).*\(2, 4\)"),
        (((2, 5), (3, 5)), np.zeros((2, 3), "f4"), r"carry h: expected .*\(2, 5\).*\(3, 5\)"),
    ],
)
def test_what_does_not_fit_is_refused(carry, inputs, message):
    cell = fb.LSTMCell(3, 5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=message):
        cell(tuple(np.zeros(shape, "f4") for shape in carry), inputs)
