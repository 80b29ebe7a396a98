"""What the inputs do not reach is noted."""

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import parity
from parity.sides.torch_side import TorchSide
from parity.sides.unreached import of_reference

from ..two_layers import Reference

X = np.linspace(-2, 2, 24, dtype=np.float32).reshape(8, 3)
SIZES = "not reached by these inputs, so not compared: "


def found(forward, **options):
    """The notes, without the places in them."""
    notes = of_reference(TorchSide(Reference(forward)), {"x": X}, **options)
    return [re.sub(r" \(test_(unreached|limits)[^)]*\)", "", note) for note in notes]


def test_every_line_of_the_user_has_to_reach_it():
    def forward(m, x):
        first = F.relu(x)
        return F.relu(first + 1)

    assert found(forward) == [SIZES + "relu below 0"]


def test_every_call_of_a_function_has_to_reach_it():
    def rectified(x):
        return F.relu(x)

    def forward(m, x):
        return rectified(x) + rectified(x + 9)

    first = forward.__code__.co_firstlineno
    (note,) = of_reference(TorchSide(Reference(forward)), {"x": X})
    assert note == (
        SIZES
        + f"relu below 0 (test_unreached.py:{first - 2} called at test_unreached.py:{first + 1})"
    )


def test_every_layer_of_a_loop_has_to_reach_it():
    layers = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Softplus()])

    def forward(m, x):
        for layer in layers:
            x = F.relu(layer(x))
        return x

    assert found(forward) == [SIZES + "relu below 0"]


def test_the_line_is_named():
    def forward(m, x):
        return F.relu(x + 9) + (x + 9).relu()

    line = forward.__code__.co_firstlineno + 1
    side = TorchSide(Reference(forward))
    assert of_reference(side, {"x": X}) == [SIZES + f"relu below 0 (test_unreached.py:{line})"]


def test_the_arguments_of_a_distribution_are_not_noted():
    normal = torch.distributions.Normal(0.0, 1.0, validate_args=True)
    assert not found(lambda m, x: normal.log_prob(x))
    assert not found(lambda m, x: torch.distributions.Categorical(logits=x).entropy())


def test_what_torch_compares_or_guards_itself_is_not_noted():
    layer = torch.nn.TransformerDecoderLayer(4, 2, 8, batch_first=True).double()
    mask = torch.nn.Transformer.generate_square_subsequent_mask(3, dtype=torch.float64)

    def forward(m, x):
        y = m.a(x).view(2, 4, 4)[:, :3]
        return layer(y, y, tgt_mask=mask) + F.cosine_similarity(y, y + 1, -1)[..., None]

    assert not [note for note in found(forward) if "number" in note or "clamp" in note]


def test_every_module_of_a_sequential_has_to_reach_it():
    class Above(torch.nn.Module):
        def forward(self, x):
            return x**2 + 1

    layers = torch.nn.Sequential(torch.nn.ReLU(), Above(), torch.nn.ReLU())
    assert found(lambda m, x: layers(x - 1)) == [SIZES + "relu below 0"]


def test_what_evaluation_reaches_need_not_be_reached_in_training():
    def forward(m, x):
        return F.relu(x + 9 if m.training else x)

    assert not found(forward, training=True)


def test_every_block_of_the_user_has_to_reach_it():
    class Block(torch.nn.Module):
        def forward(self, x):
            return torch.relu(x) + 1

    blocks = torch.nn.Sequential(Block(), Block())
    assert found(lambda m, x: blocks(x)) == [SIZES + "relu below 0"]


def test_limits_of_training_mode_and_of_hooks_are_noted():
    def forward(m, x):
        y = m.a(x)
        if not m.training:
            return y
        if y.requires_grad:
            y.register_hook(lambda slope: slope.clamp(-7, 7))
        return torch.where(y < 9, y, 9.0)

    assert not found(forward)
    words = SIZES + (
        "a number ≥ 9, where with a condition that is false, clamp below -7, clamp above 7"
    )
    assert found(forward, training=True) == [words]


def test_torch_wraps_no_mode_of_operators_in_dynamo():
    """To import it takes a second of a first check, and to call it longer than an operation."""
    import parity.nudging
    import parity.sides.torch_masks  # noqa: F401

    every = [mode for mode in TorchDispatchMode.__subclasses__() if "parity" in mode.__module__]
    assert len(every) == 3
    assert not [mode for mode in every if "__torch_dispatch__" in vars(mode)]


def test_limits_of_a_model_of_pytorchs_own_are_noted():
    layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU6(), torch.nn.Linear(4, 2))
    assert of_reference(TorchSide(layers), {"x": X}) == [SIZES + "hardtanh above 6 (torch_model)"]


def test_a_pair_may_be_made_before_there_are_targets():
    side = TorchSide(Reference(lambda m, x: F.relu(m.a(x) + 9)), loss=parity.losses.CROSS_ENTROPY)
    (note,) = of_reference(side, {"x": X})
    assert note.startswith(SIZES + "relu below 0 (test_unreached.py:")


def test_limits_of_the_loss_are_noted():
    def masked(output, inputs):
        mask = inputs["tags"] != 0
        return (output**2).mean(-1)[mask].mean()

    side = TorchSide(Reference(lambda m, x: m.a(x)), loss=parity.Loss("masked", masked, masked))
    (note,) = of_reference(side, {"x": X, "tags": np.arange(1, 9)})
    assert note.startswith(SIZES + "a number = 0 in tags (test_unreached.py:")


def test_every_input_has_to_reach_it():
    def forward(m, x, source, goal):
        return sum(m.a(x) * (t != 0)[:, None] for t in (source, goal))

    inputs = {"x": X, "source": np.arange(8), "goal": np.arange(1, 9)}
    side = TorchSide(Reference(forward), lambda m, given: m(*map(given.get, inputs)))
    (note,) = of_reference(side, inputs)
    assert note.startswith(SIZES + "a number = 0 in goal (test_unreached.py:")
