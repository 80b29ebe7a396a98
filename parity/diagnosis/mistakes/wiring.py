"""Mistakes between layers: activations, which step is read, what is put together."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from parity.diagnosis.mistakes.calls import Calls, Mistakes

ACTIVATIONS = ("relu", "gelu", "silu", "sigmoid", "tanh", "elu", "leaky_relu", "softplus", "mish")
"""Names of functions that are easily mistaken for one another."""


def of_activations() -> Mistakes:
    """What can be wrong in elementwise functions."""
    functional = torch.nn.functional
    others = (name for name in ACTIVATIONS if name != "gelu")
    for wrong in ("gelu (exact)", "gelu (by tanh, JAX's default)", *others):
        kind, _, how = wrong.partition(" (")
        options = {"approximate": "tanh" if how.startswith("by") else "none"} if how else {}
        function: Any = getattr(functional, kind)
        changed = tuple(name for name in ACTIVATIONS if name != kind or how)
        yield (
            f"the activation is {wrong}",
            Calls(changed, lambda c, f, a, k, g=function, o=options: g(a[0], **o)),
        )
    yield (
        "the activation is x σ(1.702 x), a fast GELU",
        Calls(ACTIVATIONS, lambda c, f, a, k: a[0] * (1.702 * a[0]).sigmoid()),
    )
    yield "the activation is missing", Calls(ACTIVATIONS, lambda c, f, a, k: a[0])
    yield "the activation is taken twice", Calls(ACTIVATIONS, lambda c, f, a, k: f(f(*a, **k)))
    yield (
        "the logarithm of the softmax is missing: it is a softmax",
        Calls(("log_softmax",), lambda c, f, a, k: f(*a, **k).exp()),
    )
    yield "the log_softmax is missing", Calls(("log_softmax",), lambda c, f, a, k: a[0])


def of_wiring() -> Mistakes:
    """What can be wrong between the layers: which step is read, in which order they are."""
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
