"""Mistakes in layers: linear ones, norms, embeddings."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from parity.diagnosis.mistakes.calls import Calls, Mistakes
from parity.diagnosis.mistakes.rounding import SIGNIFICANT_BITS, rounded, with_rounded_gradient


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
        "embedding": (
            "input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq",
            "sparse",
        ),
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


EPSILONS = {
    1e-6: "Flax's default",
    1e-5: "PyTorch's default",
    1e-3: "Keras's default",
    1e-12: "BERT's",
}


def of_layers() -> Mistakes:
    """What can be wrong in a layer."""
    changes: dict[str, Callable[[Any], Any]] = {
        "the bias is missing": lambda g: {**g, "bias": None},
        "the bias is added twice": lambda g: {**g, "bias": 2 * g["bias"]},
        "the weight is transposed": lambda g: {**g, "weight": _square(g["weight"]).T},
        "no gradient flows into the layer's input": lambda g: {**g, "input": g["input"].detach()},
        "no gradient flows into the layer's weight": lambda g: {
            **g,
            "weight": g["weight"].detach(),
        },
        **{
            f"the layer's products are computed in {precision}": partial(_low_layer, bits)
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
            f"the layer's output is rounded to {precision}": partial(rounded, bits=bits)
            for precision, bits in SIGNIFICANT_BITS.items()
        },
        **{
            f"the layer's gradient is rounded to {precision}": partial(
                with_rounded_gradient, bits=bits
            )
            for precision, bits in SIGNIFICANT_BITS.items()
        },
    }
    for words, result in results.items():
        yield words, _layer("linear", partial(_afterwards, result))
    for norm in ("layer_norm", "rms_norm", "batch_norm"):
        for eps, whose in EPSILONS.items():
            yield (
                f"the epsilon is {eps:g}, {whose}",
                _layer(norm, partial(_before, partial(_with_eps, eps))),
            )
        yield (
            "the norm's scale is missing",
            _layer(norm, lambda func, g: func({**g, "weight": None})),
        )
        if norm != "rms_norm":
            yield (
                "the norm's bias is missing",
                _layer(norm, lambda func, g: func({**g, "bias": None})),
            )
    yield (
        "the batch's own statistics are used, as in training",
        _layer("batch_norm", lambda func, g: func({**_copied(g), "training": True})),
    )
    yield (
        "the row of padding_idx has a gradient",
        _layer("embedding", partial(_before, _padded)),
    )
    yield (
        "the embedding is multiplied by √d",
        _layer("embedding", lambda func, g: func(g) * g["weight"].shape[1] ** 0.5),
    )


def _padded(given: dict[str, Any]) -> dict[str, Any]:
    if given.get("padding_idx") is None:
        raise ValueError("no token is padding")
    return {**given, "padding_idx": None}


def _copied(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments, with copies of the statistics, which may be changed in place."""
    return {**given, **{n: given[n].clone() for n in ("running_mean", "running_var")}}


def _square(weight: Tensor) -> Tensor:
    if weight.shape[0] != weight.shape[1]:
        raise ValueError("the weight is not square")
    return weight
