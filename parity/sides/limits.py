"""What the numbers of an operator of PyTorch have to reach, to show all that it does."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch

Reached = Iterator[tuple[str, bool]]
"""What a call of an operator has to reach, in words after its name, and whether it does."""

GUARD = 1e-5
"""A lower limit between 0 and this one only guards against a division by 0."""


def _is_guard(low: Any) -> bool:
    of = torch.as_tensor(low)
    return of.is_floating_point() and bool(((of > 0) & (of <= GUARD)).all())


def _beyond(x: Any, low: Any = None, high: Any = None) -> Reached:
    """Numbers on both sides of each limit; only beyond one that is an array."""
    for limit, outside in ((low, " below"), (high, " above")):
        if limit is None or (outside == " below" and _is_guard(limit)):
            continue
        one_side = isinstance(limit, torch.Tensor)
        for side in (outside,) if one_side else (" below", " above"):
            found = x < limit if side == " below" else x > limit
            yield f"{side} {_words(limit)}", bool(found.any())


def _words(limit: Any) -> str:
    return "another array" if isinstance(limit, torch.Tensor) else f"{limit:g}"


def _around(limit: float, distance: Any) -> Reached:
    """Of a function that is another one of distances above a limit."""
    yield f" within {limit:g}", bool((distance.abs() < limit).any())
    yield f" beyond {limit:g}", bool((distance.abs() > limit).any())


def _below_0(result: Any, x: Any, *others: Any) -> Reached:
    return _beyond(x, 0.0)


def _larger(result: Any, x: Any, other: Any) -> Reached:
    yield " with a larger first argument", bool((x > other).any())
    yield " with a larger second argument", bool((x < other).any())


def _buckets(result: Any, boundaries: Any) -> Reached:
    missed = boundaries.shape[-1] + 1 - len(result.unique())
    yield f" into {missed} of its buckets", not missed


def _where(result: Any, mask: Any, *others: Any) -> Reached:
    yield " with a condition that is true", bool(mask.any())
    yield " with a condition that is false", not bool(mask.all())


def _renorm(result: Any, table: Any, tokens: Any, most: Any, p: Any) -> Reached:
    yield f" of a norm above {most:g}", bool((table[tokens].norm(p, -1) > most).any())


def _ignored(result: Any, x: Any, classes: Any, weight: Any, reduction: Any, no: int) -> Reached:
    if no != -100:  # the default
        yield f" of the ignored class {no}", bool((classes == no).any())
    if weight is not None:
        yield " of every class that has a weight", len(classes.unique()) >= len(weight)


def _in_a_row(result: Any, x: Any, labels: Any, *lengths: Any) -> Reached:
    yield " of a label twice in a row", bool((labels[..., 1:] == labels[..., :-1]).any())


def _twice(result: Any, x: Any, axis: Any, index: Any, *source: Any) -> Reached:
    if index.ndim and index.shape[axis if index.ndim > 1 else 0] == 1:
        return  # one index, as of `one_hot`
    if index.ndim == 1:
        index = index.view(-1, *[1] * (x.ndim - 1)).movedim(0, axis) if x.ndim > 1 else index
    counts = torch.zeros_like(x).scatter_add(axis, index, torch.ones_like(index, dtype=x.dtype))
    yield " of an index twice", bool((counts > 1).any())


def _put(result: Any, x: Any, indices: Any, *values: Any) -> Reached:
    if not any(index is None or index.dtype == torch.bool for index in indices):
        places = torch.stack(torch.broadcast_tensors(*indices), -1).flatten(0, -2)
        yield " of an index twice", len(places.unique(dim=0)) < len(places)


def _even(x: Any, axis: int | None = None, *keep: Any) -> Reached:
    size = x.numel() if axis is None else x.shape[axis]
    yield " of an even number of values", size % 2 == 0


def _padding(result: Any, table: Any, tokens: Any, padding: int = -1, *how: Any) -> Reached:
    if padding >= 0:
        yield f" of padding_idx {padding}", bool((tokens == padding).any())


def _outside(result: Any, x: Any, grid: Any, *how: Any) -> Reached:
    yield " outside of the array", bool((grid.abs() > 1).any())


def _repeated(result: Any, x: Any, *how: Any) -> Reached:
    values = result[0]
    yield " of a value twice", values.shape != x.shape and values.shape != x.reshape(-1).shape


def _softplus(result: Any, x: Any, beta: float = 1.0, threshold: float = 20.0) -> Reached:
    if threshold < 20:  # the default; beyond it, the function is linear but for 2e-9
        yield from _beyond(x * beta, None, threshold)


def _quantized(result: Any, x: Any, scale: Any, zero: Any, low: int, high: int) -> Reached:
    return _beyond(torch.round(x / scale) + zero, float(low), float(high))


def _both_results(result: Any, x: Any, *others: Any) -> Reached:
    """Of booleans; one that is always the same is noted where it is computed. Of integers, bits."""
    args = (x, *others)
    if x.dtype != torch.bool:
        yield " of other bits", bool((result != x).any())
    elif all(arg.dtype == torch.bool and arg.any() and not arg.all() for arg in args):
        yield " to true", bool(result.any())
        yield " to false", not bool(result.all())
        yield " of two that are true", bool(torch.logical_and(*args).any())


def _cut(result: Any, x: Any, *diagonal: Any) -> Reached:
    yield " of anything", bool((result != x).any())


def _of_0(result: Any, x: Any, *axes: Any) -> Reached:
    yield " of 0", bool((x == 0).any())


ORDERS = ("<", "≤", ">", "≥")
"""Comparisons of which two differ only where both numbers are equal."""


def _result(true: str, false: str = "") -> Callable[..., Reached]:
    """Of an operator that compares: what a number is where it is true, and where it is false."""

    def reached(result: Any, x: Any, *other: Any) -> Reached:
        to = "".join(f" {_words(limit)}" for limit in other)
        if other and true in ORDERS and not x.is_floating_point():
            yield f"a number ={to}", bool((x == other[0]).any())
        yield f"a number {true}{to}", bool(result.any())
        if false:
            yield f"a number {false}{to}", not bool(result.all())

    return reached


LIMITS: Mapping[str, Callable[..., Reached]] = {
    "clamp": lambda y, x, *limits: _beyond(x, *limits),
    "clamp_min": lambda y, x, low: _beyond(x, low),
    "clamp_max": lambda y, x, high: _beyond(x, None, high),
    "hardtanh": lambda y, x, low=-1.0, high=1.0: _beyond(x, low, high),
    "threshold": lambda y, x, limit, value: _beyond(x, limit),
    **dict.fromkeys(("relu", "leaky_relu", "elu", "celu", "_prelu_kernel", "abs"), _below_0),
    "sign": lambda y, x: _beyond(x, 0.0, 0.0),
    "hardswish": lambda y, x: _beyond(x, -3.0, 3.0),
    **dict.fromkeys(("softshrink", "hardshrink"), lambda y, x, limit=0.5: _around(limit, x)),
    "smooth_l1_loss": lambda y, x, to, reduction=1, beta=1.0: _around(beta, x - to),
    "huber_loss": lambda y, x, to, reduction=1, delta=1.0: _around(delta, x - to),
    **dict.fromkeys(("maximum", "minimum", "fmax", "fmin"), _larger),
    "masked_fill": lambda y, x, mask, value: iter([(" of anything", bool(mask.any()))]),
    "where": _where,
    **dict.fromkeys(
        ("nan_to_num", "nansum", "nanmean"),
        lambda y, x, *how: iter([(" of NaN", bool(x.isnan().any()))]),
    ),
    "xlogy": lambda y, x, other: _of_0(y, x),
    "isin": lambda y, x, among: iter([(" of each number", bool(torch.isin(among, x).all()))]),
    **dict.fromkeys(("grid_sampler_2d", "grid_sampler_3d"), _outside),
    "histc": lambda y, x, bins=100, *limits: _beyond(x, *limits),
    **dict.fromkeys(
        ("remainder", "fmod"),
        lambda y, x, by: iter([(f" of more than {_words(by)}", bool((x.abs() >= by).any()))]),
    ),
    "bucketize": lambda y, x, boundaries: _buckets(y, boundaries),
    "searchsorted": lambda y, boundaries, x: _buckets(y, boundaries),
    **dict.fromkeys(("nonzero", "count_nonzero"), _of_0),
    **dict.fromkeys(("scatter", "scatter_add", "index_add"), _twice),
    **dict.fromkeys(("tril", "triu"), _cut),
    **dict.fromkeys(
        (f"{kind}_{name}" for kind in ("logical", "bitwise") for name in ("and", "or", "xor")),
        _both_results,
    ),
    "index_put": _put,
    "scatter_reduce": lambda y, x, axis, index, *source: _twice(y, x, axis, index),
    **dict.fromkeys(("_unique2", "unique_consecutive", "unique_dim"), _repeated),
    "_ctc_loss": _in_a_row,
    "renorm": _cut,
    "softplus": _softplus,
    "fake_quantize_per_tensor_affine_cachemask": _quantized,
    "embedding": _padding,
    "median": lambda y, x, *axis: _even(x, *axis),
    "split": lambda y, x, size, axis=0: iter([(" into more than one", len(y) > 1)]),
    "topk": lambda y, x, k, axis=-1, *order: iter([(f" of more than {k}", x.shape[axis] > k)]),
    "heaviside": lambda y, x, values: _beyond(x, 0.0, 0.0),
    "embedding_renorm": _renorm,
    **dict.fromkeys(("nll_loss_forward", "nll_loss2d_forward"), _ignored),
}  # fmt: skip
"""An operator, in place or not → the test of its result and its arguments."""

COMPARISONS: Mapping[str, Callable[..., Reached]] = {
    "eq": _result("=", "≠"), "ne": _result("≠", "="), "lt": _result("<", "≥"),
    "le": _result("≤", ">"), "gt": _result(">", "≤"), "ge": _result("≥", "<"),
    "isnan": _result("NaN"), "isinf": _result("infinite"),
}  # fmt: skip


def compares(name: str, result: Any, args: Any) -> bool:
    """Whether an operator makes booleans of numbers."""
    if name in COMPARISONS:
        return True
    if not isinstance(result, torch.Tensor) or result.dtype != torch.bool:
        return False
    return any(isinstance(arg, torch.Tensor) and arg.dtype != torch.bool for arg in args)


def of_call(name: str, result: Any, args: Any) -> Reached:
    """What a call of an operator has to reach, in words, and whether it does."""
    if compares(name, result, args) and name not in COMPARISONS:
        how = "a conversion" if name == "_to_copy" else name
        yield f"{how} to true", bool(result.any())
        yield f"{how} to false", not bool(result.all())
    if name in LIMITS:
        for words, reached in LIMITS[name](result, *args):
            yield name.strip("_").removesuffix("_kernel") + words, reached
    if name in COMPARISONS:
        yield from COMPARISONS[name](result, *args)


def of_slices(array: Any, index: Any, computed: Collection[int] = ()) -> Reached:
    """What an index of slices has to cut off, such as `tokens[:, :512]`, and whether it does.

    An end that is equal to the size was computed from it, unless it is among the numbers that were
    `computed` from arrays, such as the largest length.
    """
    parts = [part for part in (index if isinstance(index, tuple) else (index,)) if part is not None]
    if not all(isinstance(part, slice | int) or part is Ellipsis for part in parts):
        return
    if ... in parts:
        at = parts.index(...)
        parts[at : at + 1] = [slice(None)] * (array.ndim - len(parts) + 1)
    for part, size in zip(parts, array.shape, strict=False):
        start, stop = (part.start, part.stop) if isinstance(part, slice) else (None, None)
        end = -1 if stop is None else int(stop)
        if end >= 0:
            is_computed = isinstance(stop, torch.Tensor) or end in computed
            yield f"[:{end}] of something longer", size > end if is_computed else size >= end
        if isinstance(start, int) and start < 0:
            yield f"[{start}:] of something longer", size >= -start
