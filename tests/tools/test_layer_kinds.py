"""The page of layer kinds is the table's, and leaves out no layer of Flax or PyTorch."""

import pytest
from flax import nnx

from flax_bilstm.conversion.layers import FLAX_WITHOUT, KINDS
from tools import layer_kinds

WITHOUT_VARIABLES = {
    "Module", "List", "Dict", "Sequential", "Dropout", "RNNCellBase",
}  # fmt: skip


def test_the_page_is_up_to_date():
    assert layer_kinds.PAGE.read_text() == layer_kinds.page(), "run python -m tools.layer_kinds"


def test_every_layer_of_flax_is_told_of():
    layers = {
        name
        for name, layer in vars(nnx).items()
        if isinstance(layer, type) and issubclass(layer, nnx.Module)
    }
    told = {kind.__name__ for kind in (*KINDS, *FLAX_WITHOUT)}
    assert layers - told == WITHOUT_VARIABLES


def test_every_layer_of_torch_that_has_tensors_is_told_of():
    nn = pytest.importorskip("torch").nn
    text = layer_kinds.PAGE.read_text()
    for name, layer in vars(nn).items():
        if not (isinstance(layer, type) and issubclass(layer, nn.Module)):
            continue
        own = hasattr(layer, "reset_parameters") or hasattr(layer, "_reset_parameters")
        if own and not name.startswith("Lazy") and name not in ("RNNBase", "RNNCellBase"):
            short = name.replace("2d", "1d").replace("3d", "1d").removesuffix("Cell")
            assert short in text, name
