"""What each operator has to reach is noted where it does not."""

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F

from .test_unreached import SIZES, found

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
    "no mask": (lambda x: x.masked_fill(x > 5, -1e9), "a number > 5, masked_fill of anything"),
    "a mask": (lambda x: x.masked_fill(x > 1, -1e9), ""),
    "true": (
        lambda x: torch.where(x < 9, x, 0.0), "a number ≥ 9, where with a condition that is false",
    ),
    "false": (
        lambda x: torch.where(x > 9, x, 0.0), "a number > 9, where with a condition that is true",
    ),
    "a mask by multiplication": (lambda x: x * (x != 7).float(), "a number = 7"),
    "by index": (lambda x: x.index_put((x < -9,), torch.tensor(0.0)), "a number < -9"),
    "two arrays": (lambda x: x * (x < x + 1), "a number ≥ another array"),
    "the larger one": (
        lambda x: torch.maximum(x, x - 1), "maximum with a larger second argument",
    ),
    "limits of their own": (
        lambda x: torch.clamp(x, -9 * torch.ones(3), torch.zeros(3)), "clamp below another array",
    ),
    "no NaN": (lambda x: x.nan_to_num(), "nan_to_num of NaN"),
    "a remainder": (lambda x: x % 5, "remainder of more than 5"),
    "a class that is ignored": (
        lambda x: F.cross_entropy(x, torch.arange(8) % 3, ignore_index=7),
        "nll_loss_forward of the ignored class 7",
    ),
    "of a tagger": (
        lambda x: F.cross_entropy(x.T[None], torch.arange(8)[None] % 3, ignore_index=7),
        "nll_loss2d_forward of the ignored class 7",
    ),
    "none that is ignored": (lambda x: F.cross_entropy(x, torch.arange(8) % 3), ""),
    "in place": (lambda x: x.clone().lt_(0.5), ""),
    "into another array": (
        lambda x: x * torch.gt(x, 9.0, out=torch.empty(8, 3, dtype=torch.bool)), "a number > 9",
    ),
    "by threshold": (lambda x: F.threshold(x, -3, 0), "threshold below -3"),
    "a leak": (lambda x: F.leaky_relu(x.abs(), 0.2), "leaky_relu below 0"),
    "celu": (lambda x: F.celu(x.abs() + 1), "celu below 0"),
    "prelu": (lambda x: F.prelu(x + 3, torch.tensor([0.2])), "prelu below 0"),
    "selu": (lambda x: F.selu(x + 3), "elu below 0"),
    "a size": (lambda x: (x + 3).abs(), "abs below 0"),
    "signs": (lambda x: torch.sign(x + 3), "sign below 0"),
    "softshrink": (lambda x: F.softshrink(x + 9), "softshrink within 0.5"),
    "small distances": (lambda x: F.smooth_l1_loss(x, 0.9 * x), "smooth_l1_loss beyond 1"),
    "large distances": (lambda x: F.huber_loss(x, x + 9), "huber_loss within 1"),
    "fmax": (lambda x: torch.fmax(x, x - 1), "fmax with a larger second argument"),
    "fmod": (lambda x: torch.fmod(x, 5), "fmod of more than 5"),
    "infinite": (lambda x: torch.where(torch.isinf(x), 0.0, x), "a number infinite, "
                 "where with a condition that is true"),
    "buckets": (
        lambda x: x * torch.bucketize(x, torch.tensor([-9.0, 0.0])),
        "bucketize into 1 of its buckets",
    ),
    "a longest sequence": (lambda x: x[:20], "[:20] of something longer"),
    "the last steps": (lambda x: x[..., None, -5:], "[-5:] of something longer"),
    "a size that was computed": (lambda x: x[:, : x.shape[1]] + x[:5].sum() + x[-8:].sum(), ""),
    "an index beside a mask": (lambda x: x[x[:, 0] > 0][:, :2], ""),
    "by another call in a line": (
        lambda x: F.relu6(x) + F.relu6(x + 6), "hardtanh above 6, hardtanh below 0",
    ),
    "by another round of a loop": (lambda x: sum(F.relu6(y) for y in (x, x + 6)), ""),
    "a mask of its own": (lambda x: x * (x + 3).bool(), "a conversion to false"),
    "its complement": (
        lambda x: x * ~torch.isin(x, torch.tensor([7.0, 8.0])), "isin to true, isin of each number",
    ),
    "logical_not": (lambda x: x * torch.logical_not(x), "logical_not to true"),
    "any": (lambda x: x * (x + 3).any(-1)[:, None], "any to false"),
    "lengths": (lambda x: x / torch.count_nonzero(x, -1)[:, None], "count_nonzero of 0"),
    "indices": (lambda x: x[torch.nonzero(x[:, 0])[:, 0]], "nonzero of 0"),
    "indices once": (
        lambda x: x.scatter_add(1, torch.tensor([[0, 2]]), x[:1, :2]),
        "scatter_add of an index twice",
    ),
    "indices twice": (
        lambda x: x.scatter_add(0, torch.tensor([[0, 1], [0, 2]]), x[:2, :2]), "",
    ),
    "places once": (
        lambda x: x.scatter(1, torch.tensor([[0, 1]]), 1.0), "scatter of an index twice",
    ),
    "reduced once": (
        lambda x: x.scatter_reduce(1, torch.tensor([[0, 2]]), x[:1, :2], "sum"),
        "scatter_reduce of an index twice",
    ),
    "reduced twice": (
        lambda x: x.scatter_reduce(0, torch.tensor([[0, 1], [0, 2]]), x[:2, :2], "sum"), "",
    ),
    "one index": (lambda x: x * F.one_hot(torch.arange(8) % 3), ""),
    "put once": (
        lambda x: x.index_put((torch.tensor([0, 2]),), x[:2], accumulate=True),
        "index_put of an index twice",
    ),
    "put twice": (
        lambda x: x.index_put((torch.tensor([2, 2]),), x[:2], accumulate=True), "",
    ),
    "different values": (
        lambda x: x * torch.arange(5).unique().sum(), "unique2 of a value twice",
    ),
    "equal values": (lambda x: x * torch.tensor([1, 1]).unique_consecutive(), ""),
    "small rows": (lambda x: x.renorm(2, 0, 9.0), "renorm of anything"),
    "both": (lambda x: x * ((x > 0) | (x < 1)), "bitwise_or to false"),
    "neither": (
        lambda x: x * ((x > 1) & (x < 0)),
        "bitwise_and to true, bitwise_and of two that are true",
    ),
    "one or the other": (
        lambda x: x * ((x > 1) ^ (x < 0)), "bitwise_xor of two that are true",
    ),
    "above the least": (
        lambda x: x * (torch.arange(3) >= 0), "a number < 0",
    ),
    "beside whole numbers": (
        lambda x: x * (2 * torch.arange(3) > 1), "a number = 1",
    ),
    "a histogram": (
        lambda x: x * torch.histc(x.detach(), 3, -9, 9), "histc below -9, histc above 9",
    ),
    "never above 0": (lambda x: x + F.relu(x - 9), "relu above 0"),
    "one": (lambda x: x * ((x > 0) & (x < 1)), ""),
    "low bits": (lambda x: x * (torch.arange(3) & 7), "bitwise_and of other bits"),
    "bits": (lambda x: x * (torch.arange(3) & 1), ""),
    "an odd number": (lambda x: x.median(-1).values, "median of an even number of values"),
    "an even number": (lambda x: x.median(0).values, ""),
    "a softplus": (lambda x: F.softplus(x), ""),
    "a softplus with a limit": (
        lambda x: F.softplus(x, threshold=5), "softplus above 5",
    ),
    "a grid inside": (
        lambda x: F.grid_sample(
            x[None, None], torch.zeros(1, 2, 2, 2, dtype=x.dtype), align_corners=True
        ),
        "grid_sampler_2d outside of the array",
    ),
    "a divergence": (lambda x: F.kl_div(x, x.exp(), reduction='sum'), "xlogy of 0"),
    "an 8-bit range": (
        lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 10),
        "fake_quantize_per_tensor_affine_cachemask below -128",
    ),
    "no padding": (
        lambda x: x + F.embedding(torch.arange(1, 4), x[:4], padding_idx=0).sum(),
        "embedding of padding_idx 0",
    ),
    "padding": (lambda x: x + F.embedding(torch.arange(3), x[:4], padding_idx=0).sum(), ""),
    "a class without a target": (
        lambda x: F.cross_entropy(x, torch.arange(8) % 2, torch.tensor([1.0, 2.0, 3.0])),
        "nll_loss_forward of every class that has a weight",
    ),
    "every class": (
        lambda x: F.cross_entropy(x, torch.arange(8) % 3, torch.tensor([1.0, 2.0, 3.0])), "",
    ),
    "labels once": (
        lambda x: F.ctc_loss(
            x[:, None], torch.tensor([[1, 2]]), torch.tensor([8]), torch.tensor([2]),
            reduction="sum",
        ),
        "ctc_loss of a label twice in a row",
    ),
    "to the longest": (
        lambda x: x[: (x[:, 0] != 9).sum()] + x[: int((x[:, 0] != 9).sum())],
        "a number = 9, [:8] of something longer",
    ),
    "rows once": (
        lambda x: x.index_add(0, torch.tensor([0, 2]), x[:2]), "index_add of an index twice",
    ),
    "rows twice": (lambda x: x.index_add(0, torch.tensor([2, 2]), x[:2]), ""),
    "a window": (lambda x: (x @ x.T).triu(-9).tril(), "triu of anything"),
    "one chunk": (lambda x: x.split(9)[0], "split into more than one"),
    "all of them": (lambda x: x.topk(3).values, "topk of more than 3"),
    "heaviside": (
        lambda x: x * torch.heaviside(x.detach() + 3, torch.tensor(0.5)), "heaviside below 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_what_is_not_reached_is_noted(name):
    call, words = CALLS[name]
    assert found(lambda m, x: call(x)) == ([SIZES + words] if words else [])
