"""The fixed masks in PyTorch: the product and its gradient."""

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional

from parity.sides.fixed_masks import POSITIONS, VALUES, fixed_mask, varied
from parity.sides.torch_masks import FixedDropout


@pytest.mark.parametrize("rate", [0.5, 0.3])
@pytest.mark.parametrize("by", ["", POSITIONS, VALUES])
def test_masks_are_fixed(rate, by):
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)
    mask = torch.from_numpy(fixed_mask((7,), rate, 0))
    expected = {"": x, POSITIONS: x * mask / (1 - rate), VALUES: varied(x, rate, (7,), torch)}
    calls = (
        lambda: functional.dropout(x, rate, True),
        lambda: torch.bernoulli(torch.full_like(x, 1 - rate)) * x / (1 - rate),
        lambda: x * (1 - torch.bernoulli(torch.full_like(x, rate))) / (1 - rate),
    )
    for number, call in enumerate(calls[: 2 if by == POSITIONS else 3]):
        with torch.no_grad(), torch.random.fork_rng(), FixedDropout(by):
            made = call()
        torch.testing.assert_close(made, expected[by], msg=f"call {number}")
    assert round(7 * rate) == int((mask == 0).sum())


KINDS = {
    "a function": lambda x: functional.dropout(x, 0.3, True),
    "in place": lambda x: functional.dropout(1 * x, 0.3, True, inplace=True),
    "of GPUs": lambda x: torch.native_dropout(x, 0.3, True)[0],
    "by hand": lambda x: x * (torch.bernoulli(torch.full_like(x, 0.7)) / 0.7),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_multiplied_by_the_same_numbers(kind):
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).requires_grad_()
    with FixedDropout(POSITIONS):
        y = KINDS[kind](x)
        y.sum().backward()
    torch.testing.assert_close(x.grad * x.detach(), y.detach(), rtol=1e-15, atol=0)
    assert not torch.equal(y, x)
