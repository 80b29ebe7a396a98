"""What the inputs do not reach is noted."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F

from parity.sides.torch_side import TorchSide
from parity.sides.unreached import of_reference

from ..two_layers import Reference

X = np.linspace(-2, 2, 24, dtype=np.float32).reshape(8, 3)
SIZES = "not reached by these inputs, so not compared: "
CALLS = {
    "relu6": (F.relu6, "hardtanh above 6"),
    "hardtanh": (F.hardtanh, ""),
    "relu in place": (lambda x: F.relu(x.abs(), inplace=True), "relu below 0"),
    "elu": (lambda x: F.elu(x.abs() + 1), "elu below 0"),
    "hardswish": (F.hardswish, "hardswish below -3, hardswish above 3"),
    "clamp": (lambda x: x.clamp(-5, 1), "clamp below -5"),
    "a limit of its own": (lambda x: x.clamp(max=9), "clamp above 9"),
    "clamp in place": (lambda x: x.clone().clamp_(-1, 7), "clamp above 7"),
    "a guard": (lambda x: x / x.norm(dim=-1, keepdim=True).clamp_min(1e-8), ""),
    "no mask": (lambda x: x.masked_fill(x > 5, -1e9), "what is > 5, masked_fill of anything"),
    "a mask": (lambda x: x.masked_fill(x > 1, -1e9), ""),
    "true": (
        lambda x: torch.where(x < 9, x, 0.0), "what is ≥ 9, where with a condition that is false",
    ),
    "false": (
        lambda x: torch.where(x > 9, x, 0.0), "what is > 9, where with a condition that is true",
    ),
    "a mask by multiplication": (lambda x: x * (x != 7).float(), "what is = 7"),
    "by index": (lambda x: x.index_put((x < -9,), torch.tensor(0.0)), "what is < -9"),
    "two arrays": (lambda x: x * (x < x + 1), "what is ≥ another array"),
    "the larger one": (
        lambda x: torch.maximum(x, x - 1), "maximum with a larger second argument",
    ),
    "limits of their own": (
        lambda x: torch.clamp(x, -9 * torch.ones(3), torch.zeros(3)), "clamp below another array",
    ),
    "no NaN": (lambda x: x.nan_to_num(), "nan_to_num of NaN"),
    "a remainder": (lambda x: x % 5, "remainder of more than 5"),
    "a class that is ignored": (
        lambda x: F.cross_entropy(x, torch.arange(8) % 3),
        "nll_loss_forward of the ignored class -100",
    ),
    "in place": (lambda x: x.clone().lt_(0.5), ""),
    "into another array": (
        lambda x: x * torch.gt(x, 9.0, out=torch.empty(8, 3, dtype=torch.bool)), "what is > 9",
    ),
    "by threshold": (lambda x: F.threshold(x, -3, 0), "threshold below -3"),
    "a leak": (lambda x: F.leaky_relu(x.abs(), 0.2), "leaky_relu below 0"),
    "reached by another call": (lambda x: F.relu6(x) + F.relu6(x + 6), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_what_is_not_reached_is_noted(name):
    call, words = CALLS[name]
    side = TorchSide(Reference(lambda m, x: call(x)))
    assert of_reference(side, {"x": X}) == ([SIZES + words] if words else [])


def test_every_line_of_the_user_has_to_reach_it():
    def forward(m, x):
        first = F.relu(x)
        return F.relu(first + 1)

    side = TorchSide(Reference(forward))
    assert of_reference(side, {"x": X}) == [SIZES + "relu below 0"]
