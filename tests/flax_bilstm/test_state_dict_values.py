"""Which names and which kinds of tensors a state dict may have, and which are refused."""

import jax
import numpy as np
import pytest

import flax_bilstm as fb

torch = pytest.importorskip("torch")

WEIGHT = torch.arange(96.0).reshape(16, 6)
COMPLEX = torch.complex(torch.zeros(16, 6), -WEIGHT)


def plain_lstm(weight):
    """The state dict of nn.LSTM(6, 4) with this `weight_ih_l0`."""
    return torch.nn.LSTM(6, 4).state_dict() | {"weight_ih_l0": weight}


@pytest.mark.parametrize(
    "weight",
    [
        WEIGHT.clone().requires_grad_(),
        WEIGHT.clone().requires_grad_() * 1,
        torch.nn.Parameter(WEIGHT),
        WEIGHT.as_subclass(type("Marked", (torch.Tensor,), {})),
        WEIGHT.T.contiguous().T,
        torch.ones(()).expand(16, 6),
        torch.conj(COMPLEX).imag,  # a view with the negative bit
        torch.view_as_real(torch.conj(COMPLEX).resolve_conj())[..., 1],
    ],
    ids=["leaf", "graph", "parameter", "subclass", "strides", "stride 0", "negative", "view"],
)
def test_tensors_of_unusual_memory_are_loaded_to_the_bit(weight):
    module = fb.from_state_dict(plain_lstm(weight))
    assert fb.state_dict(module)["weight_ih_l0"].tolist() == weight.tolist()


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (lambda: WEIGHT.to_sparse(), "got a tensor that is not dense; .*to_dense"),
        (lambda: WEIGHT.to_sparse_csr(), "got a tensor that is not dense; .*to_dense"),
        (lambda: WEIGHT.to_mkldnn(), "got a tensor that is not dense; .*to_dense"),
        (lambda: torch.quantize_per_tensor(WEIGHT, 0.1, 0, torch.qint8), "got a quantized .*deq"),
        (lambda: WEIGHT.to("meta"), "got a tensor without numbers"),
        (lambda: torch.nn.UninitializedParameter(), "got a lazy parameter without numbers"),
        (lambda: torch.nested.nested_tensor([WEIGHT, WEIGHT[1:]]), "got a nested .*to_padded_tens"),
        (lambda: [[1.0], [1.0, 2.0]], "got list: "),
        (lambda: jax.random.key(0), "got PRNGKeyArray: "),
        (lambda: np.ma.masked_array(WEIGHT.numpy(), mask=True), "got MaskedArray"),
    ],
    ids=[
        "coo",
        "csr",
        "mkldnn",
        "quantized",
        "meta",
        "uninitialized",
        "nested",
        "list",
        "key",
        "masked",
    ],
)
@pytest.mark.filterwarnings(
    "ignore:.*(beta|deprecated|prototype):UserWarning"
)  # PyTorch's, of its tensors
def test_tensors_that_are_not_dense_numbers_are_refused_by_name(weight, message):
    arrays = plain_lstm(weight())
    with pytest.raises(ValueError, match=f"weight_ih_l0: expected .*, {message}") as caught:
        fb.from_state_dict(arrays)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("dtype", ["complex64", "bfloat16", "float8_e5m2", "int32"])
def test_tensors_of_another_dtype_are_refused_with_both(dtype):
    weight = WEIGHT.to(getattr(torch, dtype))
    with pytest.raises(ValueError, match=f"weight_ih_l0, expected float32, got {dtype}"):
        fb.from_state_dict(plain_lstm(weight))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("digits", [5_000, 20])
def test_whole_numbers_that_are_no_names(digits):
    with pytest.raises(ValueError, match="names of tensors, strings or whole numbers of at most"):
        fb.from_state_dict({10**digits: np.zeros(3, np.float32)})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("key", [(1, 2), None, 0.5])
def test_keys_that_are_no_names(key):
    with pytest.raises(ValueError, match="state_dict: expected names of tensors, strings or whole"):
        fb.from_state_dict({key: np.zeros(3, np.float32)})
