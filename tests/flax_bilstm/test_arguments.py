"""What is let in at the door, and what each refusal says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm import arguments
from flax_bilstm.cli import main

LAYOUTS = ("(batch, time, features)", "(time, features)")

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.parametrize("shape", [(2, 5, 3), (5, 3), (0, 5, 3), (1, 1, 3)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_sequences_come_back_as_they_are(shape, dtype):
    x = arguments.sequence("x", jnp.ones(shape, dtype), LAYOUTS, 3, 1)
    assert (x.shape, x.dtype) == (shape, dtype)


@pytest.mark.parametrize(
    ("x", "time_axis", "message"),
    [
        (np.ones(3, "f4"), 1, r"x: expected \(batch, time, features\) or \(time, features\), got "
         r"shape \(3,\) of rank 1\."),
        (np.ones((2, 5, 7), "f4"), 1, r"x: expected 3 features on the last axis, .* \(2, 5, 7\)\."),
        (np.ones((2, 5, 3), "i4"), 1, r"x: expected a floating dtype, got int32; convert it with "
         r"x\.astype"),
        (np.ones((2, 5, 3), bool), 1, r"x: expected a floating dtype, got bool"),
        (np.ones((2, 0, 3), "f4"), 1, r"x: .* 1 time step on axis 1, got shape \(2, 0, 3\)"),
        (np.ones((0, 2, 3), "f4"), 0, r"x: .* 1 time step on axis 0, got shape \(0, 2, 3\)"),
        (np.ones((0, 3), "f4"), 1, r"x: .* 1 time step on axis 0, got shape \(0, 3\)"),
    ],
)  # fmt: skip
def test_other_sequences_are_refused(x, time_axis, message):
    with pytest.raises(ValueError, match=message):
        arguments.sequence("x", x, LAYOUTS, 3, time_axis)


def test_states():
    value = np.ones((1, 2, 4), np.float32)
    assert arguments.state("h_0", value, (1, 2, 4), "(cells, batch, out)").shape == (1, 2, 4)
    message = r"h_0: expected \(cells, batch, out\) = \(1, 3, 4\), floating, got shape \(1, 2, 4\)"
    with pytest.raises(ValueError, match=message):
        arguments.state("h_0", value, (1, 3, 4), "(cells, batch, out)")
    with pytest.raises(ValueError, match=r"h_0: expected .* dtype int32"):
        arguments.state("h_0", value.astype(np.int32), (1, 2, 4), "(cells, batch, out)")


def test_positive():
    assert type(arguments.positive("n", np.int64(3))) is int
    for wrong in (0, -1, 2.0, True, "3", None):
        with pytest.raises(
            ValueError, match=f"n: expected an integer of at least 1, got {wrong!r}"
        ):
            arguments.positive("n", wrong)


def test_compute_dtype_is_the_one_named_or_what_both_promote_to():
    half, single = jnp.ones(1, jnp.bfloat16), jnp.ones(1, jnp.float32)
    assert arguments.compute_dtype(None, half, single) == jnp.float32
    assert arguments.compute_dtype(None, half, half) == jnp.bfloat16
    assert arguments.compute_dtype(None, jnp.ones(1, jnp.float16), half) == jnp.float32
    assert arguments.compute_dtype(jnp.float16, half, single) == jnp.float16
    with pytest.raises(ValueError, match="dtype: expected a floating dtype or None, got int32"):
        arguments.compute_dtype("int32", half, single)


@pytest.mark.parametrize("name", ["dtype", "param_dtype"])
@pytest.mark.parametrize("value", ["x", "int32", object()])
def test_a_constructor_notices_its_dtype(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected a floating dtype or None"):
        fb.LSTM(2, 3, **{name: value}, rngs=nnx.Rngs(0))


def test_a_size_whose_gates_overflow_is_refused_before_anything_is_allocated():
    with pytest.raises(ValueError, match="hidden_size: expected at most 536870911, got 536870912"):
        fb.LSTM(2, 2**29, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="hidden_dim: expected at most 536870911, got 536870912"):
        fb.BiLSTMWithAttention(2, 2**29, 1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="input_shape: expected sizes"):
        fb.LSTMCell(2, 3, rngs=nnx.Rngs(0)).initialize_carry((2**40, 2**40, 2))


TOO_LARGE = {
    "LSTM": lambda r: fb.LSTM(6, 2**28, rngs=r),
    "LSTM, input": lambda r: fb.LSTM(2**31 - 1, 2**21, proj_size=1, rngs=r),
    "LSTM, second layer": lambda r: fb.LSTM(
        6, 2**25 + 1, num_layers=2, bidirectional=True, rngs=r
    ),
    "LSTMCell": lambda r: fb.LSTMCell(6, 2**28, rngs=r),
    "LSTMCell, input": lambda r: fb.LSTMCell(2**31 - 1, 2**21, rngs=r),
    "Attention": lambda r: fb.Attention(2**30, rngs=r),
    "network": lambda r: fb.BiLSTMWithAttention(6, 2**28, 1, rngs=r),
    "network, input": lambda r: fb.BiLSTMWithAttention(2**31 - 1, 2**21, 1, rngs=r),
    "network, head": lambda r: fb.BiLSTMWithAttention(6, 2**22, 2**31 - 1, rngs=r),
    "Linen": lambda r: fb.linen.LSTM(6, 2**28).init(r(), np.ones((1, 2, 6), "f4")),
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_LARGE)
def test_parameters_that_xla_cannot_count_are_refused_before_any_is_drawn(name, monkeypatch):
    monkeypatch.setattr(jax.random, "uniform", lambda *_, **__: pytest.fail("numbers were drawn"))
    with pytest.raises(ValueError, match=r"(input|hidden)_\w+.*: expected sizes .* got .* = \d+"):
        TOO_LARGE[name](nnx.Rngs(0))


@pytest.mark.parametrize("value", ["text", None, object(), {"a": 1}])
def test_what_is_no_array_is_refused_in_one_sentence(value):
    with pytest.raises(TypeError, match="x: expected an array of numbers, got"):
        arguments.sequence("x", value, LAYOUTS, 3, 1)


def deleted():
    """An array whose memory was donated."""
    array = jnp.ones((3, 5, 2))
    array.delete()
    return array


def test_what_is_deleted_is_refused():
    with pytest.raises(ValueError, match="x: expected an array, got one that was deleted"):
        arguments.sequence("x", deleted(), ("(batch, time, features)",), 2, 1)


def test_a_packed_sequence_is_refused_with_the_way_to_pass_it():
    torch = pytest.importorskip("torch")
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.ones(3, 5, 2), [3, 2, 1, 1, 1])
    with pytest.raises(TypeError, match="x: expected a padded array, got PackedSequence; unpack"):
        fb.LSTM(2, 3, rngs=nnx.Rngs(0))(packed)


def unreadable(kind):
    """A tensor of ones (5, 2), in a form that NumPy cannot read."""
    torch = pytest.importorskip("torch")
    ones = torch.ones(5, 2)
    return {
        "gradient": lambda: ones.requires_grad_(),
        "coo": ones.to_sparse,
        "csr": ones.to_sparse_csr,
        "mkldnn": ones.to_mkldnn,
        "quantized": lambda: torch.quantize_per_tensor(ones, 1.0, 0, torch.qint8),
        "bfloat16": ones.bfloat16,
        "negative": lambda: torch.conj(torch.complex(ones, -ones)).imag,
    }[kind]()


@pytest.mark.parametrize(
    "kind", ["gradient", "coo", "csr", "mkldnn", "quantized", "bfloat16", "negative"]
)
@pytest.mark.filterwarnings("ignore")  # PyTorch's, of its tensors
def test_what_is_advised_for_a_tensor_works(kind):
    x = unreadable(kind)
    with pytest.raises(TypeError, match=r"x: expected an array of numbers, got a .*; pass \.") as e:
        arguments.array("x", x)
    way = str(e.value).partition("pass .")[2].removesuffix(".")  # detach().numpy()
    for method in way.split("."):
        x = getattr(x, method.removesuffix("()"))()
    np.testing.assert_array_equal(arguments.array("x", x), np.ones((5, 2)))


def test_a_tensor_without_numbers_and_a_nested_one():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"without numbers \(device meta\); pass one with numbers"):
        arguments.array("x", torch.ones(5, 2, device="meta"))
    nested = torch.nested.nested_tensor([torch.ones(3, 2)], layout=torch.jagged)
    with pytest.raises(TypeError, match=r"a nested tensor; pass torch\.nested\.to_padded_tensor"):
        arguments.array("x", nested)


@pytest.mark.usefixtures("unchecked")
def test_a_path_has_no_nul_and_is_no_bytes(tmp_path, capsys):
    class Bytes:
        def __fspath__(self):
            return b"a.pt"

    module = fb.LSTM(2, 3, rngs=nnx.Rngs(0))
    for wrong in ("a\0b.pt", tmp_path / "a\0b.pt", Bytes()):
        for call in (lambda path: fb.save(module, path), fb.load):
            with pytest.raises(ValueError, match="path: expected the path of a file or folder, a"):
                call(wrong)
    for command in (["inspect", "a\0b"], ["convert", "a\0b", "c.pt"], ["convert", "c.pt", "a\0b"]):
        with pytest.raises(SystemExit, match="2"):
            main(command)
        assert "expected the path of a file or folder" in capsys.readouterr().err


def test_ignore_is_a_list_and_no_string_whose_letters_would_be_patterns():
    with pytest.raises(TypeError, match=r"ignore: expected a list .*; pass \['fc\.\*'\]"):
        fb.state_dict(fb.LSTM(2, 3, rngs=nnx.Rngs(0)), ignore="fc.*")


@pytest.mark.parametrize("state", [(np.zeros((1, 3, 3), "f4"), None), (None, None), (1,), "ab"])
def test_a_state_is_a_pair_of_arrays(state):
    with pytest.raises((TypeError, ValueError), match="initial_state"):
        fb.LSTM(2, 3, rngs=nnx.Rngs(0))(np.ones((3, 5, 2), "f4"), state)
