"""Mistakes of any network, as functions of PyTorch that do something else than they should.

While a mistake is in force, calls of those functions in the reference, by `torch.nn` layers or by
the code between them, are changed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from parity.diagnosis.mistakes.rounding import SIGNIFICANT_BITS, rounded, with_rounded_gradient

PRODUCTS = ("bmm", "matmul", "__matmul__", "mm", "einsum")


class Calls(TorchFunctionMode):
    """Changes the calls of some functions.

    Args:
        names: of the functions.
        change: (state, function, args, kwargs) → what the call returns.
        others: for what `state` knows: the features of the last matrix product, and whether a
            softmax has been taken since.
    """

    def __init__(self, names: tuple[str, ...], change: Callable[..., Any]) -> None:
        super().__init__()
        self.names, self.change = names, change
        self.features, self.weighing, self.watching = 1, False, True

    def __enter__(self) -> Self:
        self._fused = mock.patch.object(
            torch.nn.functional, "scaled_dot_product_attention", self._attention
        )
        self._fused.start()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._fused.stop()

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
        dropout_p: float = 0.0, is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        """torch's fused attention, as products and a softmax whose calls can be changed."""
        if is_causal or (attn_mask is not None and attn_mask.dtype is torch.bool):
            raise ValueError("the mask is not one that is added")
        with nullcontext() if self.watching else _watching(self):
            scores = query @ key.mT / query.shape[-1] ** 0.5
            return torch.softmax(scores if attn_mask is None else scores + attn_mask, -1) @ value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        self.watching = False
        try:
            result = (
                self.change(self, func, args, kwargs)
                if name in self.names
                else func(*args, **kwargs)
            )
        finally:
            self.watching = True
        if name in PRODUCTS:
            operand = args[0] if isinstance(args[0], Tensor) else args[1]
            self.features, self.weighing = operand.shape[-1], False
        if name == "softmax":
            self.weighing = True
        return result


@contextmanager
def _watching(calls: Calls) -> Iterator[None]:
    """Calls are changed again, within a function of torch that is not itself changed."""
    TorchFunctionMode.__enter__(calls)
    calls.watching = True
    try:
        yield
    finally:
        calls.watching = False
        TorchFunctionMode.__exit__(calls, None, None, None)


Mistakes = Iterator[tuple[str, Calls]]
"""Words, and the calls changed so."""


def _on_softmax(change: Callable[[Calls, Tensor, int], Tensor]) -> Calls:
    """`change(state, scores, axis)` in place of a softmax."""

    def call(state: Calls, func: Any, args: Any, kwargs: Any) -> Tensor:
        axis = kwargs.get("dim", args[1] if len(args) > 1 else -1)
        return change(state, args[0], axis % args[0].ndim)

    return Calls(("softmax",), call)


def _masked(scores: Tensor, axis: int, later: bool) -> Tensor:
    """Scores without what is on the diagonal, or after it."""
    if axis != scores.ndim - 1 or scores.ndim < 2 or scores.shape[-1] != scores.shape[-2]:
        raise ValueError("the scores are not those of a sequence with itself")
    ones = torch.ones_like(scores, dtype=torch.bool)
    mask = ones.triu(1) if later else ones.tril() & ones.triu()
    return scores.masked_fill(mask, -torch.inf).softmax(axis)


def _over_queries(scores: Tensor, axis: int) -> Tensor:
    if scores.ndim < 3:
        raise ValueError("there is one query")
    return scores.softmax(axis - 1)


def _scaled_softmax(
    factor: Callable[[float], float], state: Calls, scores: Tensor, axis: int
) -> Tensor:
    return (scores * factor(state.features)).softmax(axis)


def _low_softmax(bits: int, state: Calls, scores: Tensor, axis: int) -> Tensor:
    return rounded(rounded(scores, bits).softmax(axis), bits)


def _over_padding(longest: int, scores: Tensor, axis: int) -> Tensor:
    """Over steps that are zeros, too: of a query that is padding, every score is 0."""
    length = scores.shape[axis]
    if length >= longest:
        return scores.softmax(axis)
    padding = [0, 0] * (scores.ndim - 1 - axis) + [0, longest - length]
    return torch.nn.functional.pad(scores, padding).softmax(axis).narrow(axis, 0, length)


def _by_padding(longest: int, scores: Tensor, axis: int) -> Tensor:
    """Of a query that is zeros, where a sequence is shorter than the batch."""
    return (scores if scores.shape[axis] >= longest else 0 * scores).softmax(axis)


def of_softmax(longest: int = 0) -> Mistakes:
    """What can be wrong about the weights of an attention, in a batch of so many time steps."""
    for words, factor in (
        ("scores are divided by √d, d the features of the product", lambda d: d**-0.5),
        ("scores are divided by √d, d half of those features", lambda d: (d / 2) ** -0.5),
        ("scores are multiplied by √d", lambda d: d**0.5),
        ("scores are divided by the number of features", lambda d: 1 / d),
    ):
        yield words, _on_softmax(partial(_scaled_softmax, factor))
    yield (
        "the softmax runs over the queries, not over the keys",
        _on_softmax(lambda c, s, axis: _over_queries(s, axis)),
    )
    yield "the softmax runs over the batch", _on_softmax(lambda c, s, axis: s.softmax(0))
    yield (
        "no step attends to itself",
        _on_softmax(lambda c, s, axis: _masked(s, axis, later=False)),
    )
    yield (
        "no step attends to later ones (a causal mask)",
        _on_softmax(lambda c, s, axis: _masked(s, axis, later=True)),
    )
    yield (
        "padding is attended to, on zeros",
        _on_softmax(lambda c, s, axis: _over_padding(longest, s, axis)),
    )
    yield (
        "the query is the batch's last step, which is padding in shorter sequences",
        _on_softmax(lambda c, s, axis: _by_padding(longest, s, axis)),
    )
    yield "the weights are sigmoids, not a softmax", _on_softmax(lambda c, s, axis: s.sigmoid())
    yield "the softmax is missing", _on_softmax(lambda c, s, axis: s)
    yield (
        "the softmax is taken twice",
        _on_softmax(lambda c, s, axis: s.softmax(axis).softmax(axis)),
    )
    yield (
        "no gradient flows through the weights",
        _on_softmax(lambda c, s, axis: s.softmax(axis).detach()),
    )
    for words, bits in SIGNIFICANT_BITS.items():
        yield (
            f"the softmax is computed in {words}",
            _on_softmax(partial(_low_softmax, bits)),
        )


def of_products(model: torch.nn.Module) -> Mistakes:
    """What can be wrong about matrix products; `model` for the layers that it never calls."""

    def changed(
        weighing: bool | None, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    ) -> Calls:
        def call(state: Calls, func: Any, args: Any, kwargs: Any) -> Any:
            if func.__name__ == "einsum" or weighing not in (None, state.weighing):
                return func(*args, **kwargs)
            return func(*change(args[0], args[1]), **kwargs)

        return Calls(PRODUCTS, call)

    yield "no gradient flows into the keys", changed(False, lambda a, b: (a, b.detach()))
    yield "no gradient flows into the queries", changed(False, lambda a, b: (a.detach(), b))
    yield "no gradient flows into the values", changed(True, lambda a, b: (a, b.detach()))
    yield "no gradient flows through the weights", changed(True, lambda a, b: (a.detach(), b))
    for path, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear):
            yield (
                f"{path} is applied to the keys, though the reference does not",
                changed(False, partial(_with_keys, layer)),
            )
    for words, bits in SIGNIFICANT_BITS.items():
        yield (
            f"the matrix products are computed in {words}",
            changed(None, partial(_low_operands, bits)),
        )


def _low_operands(bits: int, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return rounded(a, bits), rounded(b, bits)


def _with_keys(layer: torch.nn.Linear, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return a, _on_keys(layer, b)


def _on_keys(layer: torch.nn.Linear, keys: Tensor) -> Tensor:
    if keys.shape[-2] != layer.in_features or layer.in_features != layer.out_features:
        raise ValueError("the layer does not fit the keys")
    bias = None if layer.bias is None else layer.bias.to(keys)
    return torch.nn.functional.linear(keys.mT, layer.weight.to(keys), bias).mT


def _layer(
    name: str, change: Callable[..., Any], defaults: tuple[Any, ...] = (None, None, None)
) -> Calls:
    """`change(function, *arguments in order)` in place of a function of torch.nn.functional."""
    keywords = {
        "linear": ("input", "weight", "bias"),
        "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
        "rms_norm": ("input", "normalized_shape", "weight", "eps"),
        "batch_norm": (
            "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps",
        ),
        "embedding": ("input", "weight"),
    }[name]  # fmt: skip

    def call(state: Calls, func: Any, args: Any, kwargs: Any) -> Any:
        given = dict(zip(keywords, args, strict=False)) | kwargs
        rest = {n: given.pop(n) for n in list(given) if n not in keywords}
        return change(lambda g: func(**g, **rest), given)

    return Calls((name,), call)


def _before(change: Callable[[Any], Any], func: Callable[[Any], Any], given: Any) -> Any:
    return func(change(given))


def _afterwards(change: Callable[[Any], Any], func: Callable[[Any], Any], given: Any) -> Any:
    return change(func(given))


def _with_eps(eps: float, given: dict[str, Any]) -> dict[str, Any]:
    return {**given, "eps": eps}


def _low_layer(bits: int, given: dict[str, Any]) -> dict[str, Any]:
    return {**given, **{name: rounded(given[name], bits) for name in ("input", "weight")}}


EPSILONS = {1e-6: "Flax's default", 1e-5: "PyTorch's default", 1e-12: "BERT's"}


def of_layers() -> Mistakes:
    """What can be wrong in a layer."""
    changes: dict[str, Callable[[Any], Any]] = {
        "the bias is missing": lambda g: {**g, "bias": None},
        "the bias is added twice": lambda g: {**g, "bias": 2 * g["bias"]},
        "the weight is transposed": lambda g: {**g, "weight": _square(g["weight"]).T},
        "no gradient flows into the input": lambda g: {**g, "input": g["input"].detach()},
        "no gradient flows into the weight": lambda g: {**g, "weight": g["weight"].detach()},
        **{
            f"the products are computed in {precision}": partial(_low_layer, bits)
            for precision, bits in SIGNIFICANT_BITS.items()
        },
    }
    for words, change in changes.items():
        yield words, _layer("linear", partial(_before, change))
    results: dict[str, Callable[[Any], Any]] = {
        "the sign of the gradient is turned": lambda y: y.detach() - (y - y.detach()),
        **{
            f"{function.__name__} is applied to the output": function
            for function in (torch.sigmoid, torch.tanh, torch.relu)
        },
        **{
            f"the output is rounded to {precision}": partial(rounded, bits=bits)
            for precision, bits in SIGNIFICANT_BITS.items()
        },
        **{
            f"the gradient is rounded to {precision}": partial(with_rounded_gradient, bits=bits)
            for precision, bits in SIGNIFICANT_BITS.items()
        },
    }
    for words, result in results.items():
        yield words, _layer("linear", partial(_afterwards, result))
    for norm in ("layer_norm", "rms_norm", "batch_norm"):
        for eps, whose in (
            (1e-6, "Flax's default"),
            (1e-5, "PyTorch's default"),
            (1e-12, "BERT's"),
        ):
            yield (
                f"the epsilon is {eps:g}, {whose}",
                _layer(norm, partial(_before, partial(_with_eps, eps))),
            )
        yield "the scale is missing", _layer(norm, lambda func, g: func({**g, "weight": None}))
        if norm != "rms_norm":
            yield "the bias is missing", _layer(norm, lambda func, g: func({**g, "bias": None}))
    yield (
        "the batch's own statistics are used, as in training",
        _layer("batch_norm", lambda func, g: func({**_copied(g), "training": True})),
    )
    yield (
        "the embedding is multiplied by √d",
        _layer("embedding", lambda func, g: func(g) * g["weight"].shape[1] ** 0.5),
    )


def _copied(given: dict[str, Any]) -> dict[str, Any]:
    """With statistics that may be changed in place."""
    return {**given, **{n: given[n].clone() for n in ("running_mean", "running_var")}}


def _square(weight: Tensor) -> Tensor:
    if weight.shape[0] != weight.shape[1]:
        raise ValueError("the weight is not square")
    return weight


ACTIVATIONS = ("relu", "gelu", "silu", "sigmoid", "tanh", "elu", "leaky_relu", "softplus", "mish")
"""Names of functions that one takes for another."""


def of_activations() -> Mistakes:
    """What can be wrong about elementwise functions."""
    functional = torch.nn.functional
    for wrong in ("gelu (exact)", "gelu (by tanh, JAX's default)", *ACTIVATIONS):
        kind, _, how = wrong.partition(" (")
        options = {"approximate": "tanh" if how.startswith("by") else "none"} if how else {}
        function: Any = getattr(functional, kind)
        others = tuple(name for name in ACTIVATIONS if name != kind or how)
        yield (
            f"the activation is {wrong}",
            Calls(others, lambda c, f, a, k, g=function, o=options: g(a[0], **o)),
        )
    yield "the activation is missing", Calls(ACTIVATIONS, lambda c, f, a, k: a[0])
    yield "the activation is taken twice", Calls(ACTIVATIONS, lambda c, f, a, k: f(f(*a, **k)))
    yield (
        "the logarithm of the softmax is missing: it is a softmax",
        Calls(("log_softmax",), lambda c, f, a, k: f(*a, **k).exp()),
    )
    yield "the log_softmax is missing", Calls(("log_softmax",), lambda c, f, a, k: a[0])


def of_wiring() -> Mistakes:
    """What can be wrong between the layers: which step is read, what is added, in which order."""
    for words, read in {
        "the first step is read, not the last": lambda x, at: x.select(at, 0),
        "the step before the last is read, not the last": lambda x, at: x.select(at, -2),
        "the mean of all steps is read, not the last": lambda x, at: x.mean(at),
        "the sum of all steps is read, not the last": lambda x, at: x.sum(at),
        "the largest of all steps is read, not the last": lambda x, at: x.amax(at),
    }.items():
        yield words, Calls(("__getitem__",), lambda c, f, a, k, r=read: _last_step(f, a, r))
    for words, mix in {
        "the mean over an axis is a sum": lambda x, *at, **k: x.sum(*at, **k),
        "the mean over an axis is the largest": lambda x, *at, **k: x.amax(*at, **k),
        "the mean over an axis is its last step": lambda x, *at, **k: x.select(_axis(at, k), -1),
        "the mean over an axis is its first step": lambda x, *at, **k: x.select(_axis(at, k), 0),
    }.items():
        yield words, Calls(("mean",), lambda c, f, a, k, m=mix: m(*a, **k))
    additions = ("add", "__add__", "__radd__", "add_", "__iadd__")
    yield "the first term of a sum is missing", Calls(additions, lambda c, f, a, k: _term(a, 1))
    yield "the second term of a sum is missing", Calls(additions, lambda c, f, a, k: _term(a, 0))
    yield (
        "what is put together is in the other order",
        Calls(("cat", "concat", "concatenate"), lambda c, f, a, k: f(a[0][::-1], *a[1:], **k)),
    )


def _axis(at: tuple[Any, ...], keywords: dict[str, Any]) -> int:
    axis = keywords.get("dim", at[0] if at else None)
    if not isinstance(axis, int):
        raise ValueError("the mean is not over one axis")
    return axis


def _last_step(func: Any, args: Any, read: Callable[[Tensor, int], Tensor]) -> Any:
    x, index = args
    at = index if isinstance(index, tuple) else (index,)
    numbers = [i for i in at if isinstance(i, int)]
    if numbers != [-1] or any(i != slice(None) for i in at if not isinstance(i, int | Tensor)):
        return func(*args)
    return read(x, at.index(-1))


def _term(args: Any, number: int) -> Tensor:
    if not all(isinstance(arg, Tensor) for arg in args[:2]) or args[0].shape != args[1].shape:
        raise ValueError("it is no sum of two alike")
    return args[number]


def of_stage(model: torch.nn.Module, longest: int = 0) -> Mistakes:
    """Every mistake of this module; `longest` is the batch's number of time steps."""
    yield from of_softmax(longest)
    yield from of_products(model)
    yield from of_layers()
    yield from of_activations()
    yield from of_wiring()
