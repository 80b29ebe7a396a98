"""Optimizers that exist in both frameworks: a table with a row for each pair.

Every hyperparameter is set on both sides, since the defaults differ: weight decay in AdamW is 1e-2
in torch and 1e-4 in optax. A moment is in `torch.optim.Optimizer.state[parameter][torch name]`, and
in the field of its optax name in the optax state.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax

from parity.tolerances import ADAM_STEP_ROUNDING, epsilon

if TYPE_CHECKING:
    import torch


def _torch(name: str, **options: Any) -> "Callable[[Iterable[Any]], torch.optim.Optimizer]":
    def make(parameters: Iterable[Any]) -> "torch.optim.Optimizer":
        import torch

        return getattr(torch.optim, name)(parameters, **options)

    return make


@dataclass(frozen=True, eq=False)  # hashable by identity
class Optimizer:
    """One optimizer in both frameworks.

    Attributes:
        name: its name in reports.
        torch: parameters → the `torch.optim.Optimizer`.
        optax: the same as an optax transformation.
        moments: the name of each moment in torch's state → its field in optax's state.
        step_rounding: by how many ULP a right implementation may round the length of its step.
    """

    name: str
    torch: "Callable[[Iterable[Any]], torch.optim.Optimizer]"
    optax: optax.GradientTransformation
    moments: Mapping[str, str] = field(default_factory=dict)
    step_rounding: float = 1.0


_ADAM: dict[str, Any] = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
_TORCH_ADAM: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8}
_ADAM_MOMENTS = {"exp_avg": "mu", "exp_avg_sq": "nu"}


def adam(learning_rate: float) -> Optimizer:
    """Adam with this learning rate."""
    return Optimizer(
        "adam",
        _torch("Adam", lr=learning_rate, **_TORCH_ADAM),
        optax.adam(learning_rate, **_ADAM),
        _ADAM_MOMENTS,
        ADAM_STEP_ROUNDING,
    )


SGD = Optimizer("sgd", _torch("SGD", lr=0.01), optax.sgd(0.01))
MOMENTUM = Optimizer(
    "sgd with momentum",
    _torch("SGD", lr=0.01, momentum=0.9),
    optax.sgd(0.01, momentum=0.9),
    {"momentum_buffer": "trace"},
)
ADAM = adam(1e-3)
ADAMW = Optimizer(
    "adamw",
    _torch("AdamW", lr=1e-3, weight_decay=1e-2, **_TORCH_ADAM),
    optax.adamw(1e-3, weight_decay=1e-2, **_ADAM),
    _ADAM_MOMENTS,
    ADAM_STEP_ROUNDING,
)

OPTIMIZERS = (SGD, MOMENTUM, ADAM, ADAMW)


class OptimizerError(ValueError):
    """A row of the table names what its optimizers do not have."""


def refuse_unknown(optimizer: Optimizer, framework: str, moment: str, known: set[str]) -> None:
    """Raise OptimizerError if the moment is not among the names in a framework's state."""
    if moment not in known:
        raise OptimizerError(
            f"optimizer {optimizer.name!r}: moments: expected names in {framework}'s state, which "
            f"has {sorted(known)}, got {moment!r}"
        )


def wide_counts(transformation: Any) -> Any:
    """The optax transformation, but in x64 mode it counts steps in int64.

    A schedule divides the count, and JAX divides int32 in float32: 1 / 3 would be off by 1e-8.
    """

    def init(params: Any) -> Any:
        wide = jax.dtypes.canonicalize_dtype(np.int64)  # int32 unless x64 is on
        return jax.tree.map(
            lambda leaf: leaf.astype(wide) if leaf.dtype == np.int32 else leaf,
            transformation.init(params),
        )

    return optax.GradientTransformationExtraArgs(
        init, optax.with_extra_args_support(transformation).update
    )


def moments(state: Any, optimizer: Optimizer, field: str) -> dict[tuple[Any, ...], Any]:
    """Path of a parameter → its moment, from all fields of this name in optax's state.

    A state may have several, one for each group of parameters (`optax.multi_transform`).

    Raises:
        OptimizerError: the state has no such field.
    """
    found, fields = {}, set()
    for keys, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        names = [getattr(key, "name", None) for key in keys]
        fields |= {name for name in names if isinstance(name, str)}
        if field in names:
            path = keys[names.index(field) + 1 :]
            found[tuple(key.key for key in path if hasattr(key, "key"))] = leaf
    if fields:  # a state without any is that of an optimizer without moments, which is compared
        refuse_unknown(optimizer, "optax", field, fields)
    return found


def nudged(optimizer: Optimizer, dtype: str, seed: int) -> Optimizer:
    """The optimizer with torch's learning rate moved by `step_rounding` ULP, up or down by seed."""
    factor = 1 + (-1) ** seed * optimizer.step_rounding * epsilon(dtype)

    def make(parameters: Iterable[Any]) -> "torch.optim.Optimizer":
        made = optimizer.torch(parameters)
        for group in made.param_groups:
            group["lr"] *= factor
        return made

    return replace(optimizer, torch=make)
