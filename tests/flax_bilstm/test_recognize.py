"""What can be read off a state dict: every module of PyTorch's own, with its sizes."""

import numpy as np
import pytest

from flax_bilstm.conversion.recognize import recognize
from flax_bilstm.conversion.tensors import to_numpy

torch = pytest.importorskip("torch")
nn = torch.nn

LAYERS = {
    "LSTM": (lambda: nn.LSTM(5, 4), {"input_size": 5, "hidden_size": 4}),
    "stacked LSTM": (
        lambda: nn.LSTM(5, 4, 3, bias=False, bidirectional=True, proj_size=2),
        {
            "input_size": 5,
            "hidden_size": 4,
            "num_layers": 3,
            "bias": False,
            "bidirectional": True,
            "proj_size": 2,
        },
    ),
    "GRU": (
        lambda: nn.GRU(5, 4, bidirectional=True),
        {"input_size": 5, "hidden_size": 4, "bidirectional": True},
    ),
    "RNN": (lambda: nn.RNN(5, 4, 2), {"input_size": 5, "hidden_size": 4, "num_layers": 2}),
    "LSTMCell": (lambda: nn.LSTMCell(5, 4), {"input_size": 5, "hidden_size": 4}),
    "GRUCell": (
        lambda: nn.GRUCell(5, 4, bias=False),
        {"input_size": 5, "hidden_size": 4, "bias": False},
    ),
    "RNNCell": (lambda: nn.RNNCell(5, 4), {"input_size": 5, "hidden_size": 4}),
    "Linear": (lambda: nn.Linear(5, 4), {"in_features": 5, "out_features": 4}),
    "BatchNorm": (lambda: nn.BatchNorm1d(5), {"num_features": 5}),
    "bare BatchNorm": (
        lambda: nn.BatchNorm2d(5, affine=False),
        {"num_features": 5, "affine": False},
    ),
    "Conv1d": (
        lambda: nn.Conv1d(5, 4, 3),
        {"in_channels": 5, "out_channels": 4, "kernel_size": (3,)},
    ),
    "Conv2d": (
        lambda: nn.Conv2d(5, 4, (3, 2), bias=False),
        {"in_channels": 5, "out_channels": 4, "kernel_size": (3, 2), "bias": False},
    ),
    "ConvTranspose3d": (
        lambda: nn.ConvTranspose3d(5, 4, 2),
        {"in_channels": 5, "out_channels": 4, "kernel_size": (2, 2, 2)},
    ),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(6, 2), {"embed_dim": 6}),
    "other widths MultiheadAttention": (
        lambda: nn.MultiheadAttention(6, 2, bias=False, kdim=4, vdim=3),
        {"embed_dim": 6, "kdim": 4, "vdim": 3, "bias": False},
    ),
    "PReLU": (nn.PReLU, {}),
    "LayerNorm": (lambda: nn.LayerNorm(5), {"features": 5}),
    "GroupNorm": (lambda: nn.GroupNorm(1, 5), {"features": 5}),
    "RMSNorm": (lambda: nn.RMSNorm(5), {"features": 5}),
}


@pytest.mark.parametrize("title", LAYERS)
@pytest.mark.parametrize("path", ["", "encoder.part"])
def test_a_layer_is_read_off_its_tensors(title, path):
    make, sizes = LAYERS[title]
    prefix = f"{path}." if path else ""
    arrays = to_numpy({prefix + name: tensor for name, tensor in make().state_dict().items()})
    (found,) = recognize(arrays)
    assert found.path == path
    assert title.split()[-1] in found.kinds
    assert found.sizes == sizes


def test_a_matrix_alone_is_one_of_two():
    weight = np.zeros((7, 3), "f4")
    (found,) = recognize({"word_emb.weight": weight})
    assert found.kinds == ("Embedding", "Linear")
    (found,) = recognize({"out.weight": weight})
    assert found.kinds == ("Linear", "Embedding")


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.pop("weight_hh_l1"),
        lambda a: a.update(extra=np.zeros(1)),
        lambda a: a.update(weight_hh_l0=np.zeros((16, 3), "f4")),
        lambda a: a.update(bias_ih_l0=np.zeros(15, "f4")),
        lambda a: a.update(weight_ih_l0=np.zeros((0, 5), "f4"), weight_hh_l0=np.zeros((0, 0))),
    ],
)
def test_what_is_not_whole_is_taken_tensor_by_tensor(change):
    arrays = to_numpy(nn.LSTM(5, 4, 2).state_dict())
    change(arrays)
    found = recognize(arrays)
    assert len(found) == len(arrays)
    assert not any(each.kinds for each in found)


def test_a_module_with_modules_inside_is_no_layer():
    arrays = {"a.weight": np.zeros((2, 3)), "a.inner.weight": np.zeros((2, 3))}
    assert [found.kinds for found in recognize(arrays)] == [(), ("Linear", "Embedding")]
