"""Mistakes of optimizers: other defaults, and other formulas under the same name.

Each is the reference's optimizer with the mistake, run on the same gradients.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

Make = Callable[[Iterable[Any]], torch.optim.Optimizer]

OPTIONS: dict[str, dict[str, Any]] = {
    "the weight decay is 1e-4, optax's default": {"weight_decay": 1e-4},
    "the weight decay is 1e-2, PyTorch's default for AdamW": {"weight_decay": 1e-2},
    "there is no weight decay": {"weight_decay": 0.0},
    "the weight decay is added to the gradient (Adam with L2), not to the step (AdamW)": {
        "decoupled_weight_decay": False
    },
    "the weight decay is added to the step (AdamW), not to the gradient (Adam with L2)": {
        "decoupled_weight_decay": True
    },
    "the largest second moment is not kept (amsgrad)": {"amsgrad": False},
    "eps is 1e-7, Keras's default": {"eps": 1e-7},
    "eps is 1e-6": {"eps": 1e-6},
    "eps is 0": {"eps": 0.0},
    "beta 2 is 0.99": {"betas": (0.9, 0.99)},
    "beta 2 is 0.95": {"betas": (0.9, 0.95)},
    "beta 1 is 0": {"betas": (0.0, 0.999)},
    "the betas are exchanged": {"betas": (0.999, 0.9)},
    "the momentum is Nesterov's": {"nesterov": True},
    "there is no momentum": {"momentum": 0.0},
    "the momentum is 0.99": {"momentum": 0.99},
    "the momentum is not dampened": {"dampening": 0.0},
    "the momentum is dampened, from its second step on": {"dampening": 0.9},
    "the gradients are ascended": {"maximize": True},
}


class _Adam(torch.optim.Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1), with a parameter for each mistake."""

    def __init__(
        self, groups: Any, *, root: bool = False, corrected: bool = True, first: int = 1,
        largest: bool = False, unscaled: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(groups, {})
        self.root, self.corrected, self.first, self.largest = root, corrected, first, largest
        self.unscaled = unscaled

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            (b1, b2), eps, rate = group["betas"], group["eps"], group["lr"]
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                if not state:
                    state |= {
                        "n": self.first - 1, "exp_avg": 0 * p, "exp_avg_sq": 0 * p, "most": 0 * p,
                    }  # fmt: skip
                state["n"] += 1
                state["exp_avg"] = b1 * state["exp_avg"] + (1 - b1) * p.grad
                state["exp_avg_sq"] = b2 * state["exp_avg_sq"] + (1 - b2) * p.grad**2
                by1, by2 = (1 - b ** state["n"] if self.corrected else 1.0 for b in (b1, b2))
                square = state["exp_avg_sq"] / by2
                state["most"] = square.maximum(state["most"])
                square = state["most"] if self.largest else square
                below = (square + eps).sqrt() if self.root else square.sqrt() + eps
                p -= (1 if self.unscaled else rate) * group["weight_decay"] * p
                p -= rate * (state["exp_avg"] / by1) / below


FORMULAS: dict[str, dict[str, Any]] = {
    "eps is inside the square root": {"root": True},
    "the moments' bias is not corrected": {"corrected": False},
    "the count of steps is one ahead": {"first": 2},
    "the weight decay is not multiplied by the learning rate": {"unscaled": True},
    "the largest corrected second moment is kept (optax.amsgrad)": {"largest": True},
}


HOOKS: dict[str, Callable[[Sequence[torch.Tensor]], None]] = {
    "gradients enter the momentum times 1 − momentum, as a moving average": (
        lambda slopes: _multiply(slopes, 0.1)
    ),
    "gradients are clipped to a norm of 1": lambda slopes: _multiply(
        slopes, min(1.0, 1 / float(torch.stack([s.norm() for s in slopes]).norm()))
    ),
    "each gradient is clipped to ±1": lambda slopes: _clip(slopes),
}
"""What is done to all gradients before a step."""


def _clip(slopes: Sequence[torch.Tensor]) -> None:
    for slope in slopes:
        slope.clamp_(-1, 1)


def _multiply(slopes: Sequence[torch.Tensor], factor: float) -> None:
    for slope in slopes:
        slope *= factor


def of_update(optimizer: Make) -> Iterator[tuple[str, Make]]:
    """(words, the optimizer with the mistake), which raises `ValueError` without such an option."""
    for words, options in OPTIONS.items():
        yield words, _with(optimizer, partial(_given, options))
    for factor in (0.1, 0.5, 2.0, 10.0):
        words = f"the learning rate is {factor:g} times what it should be"
        yield words, _with(optimizer, partial(_faster, factor))
    yield (
        "the weight decay leaves out parameters of one axis, as biases and norms",
        _without_decay(optimizer),
    )
    for words, hook in HOOKS.items():
        yield words, _after(hook, optimizer)
    for words, places in FORMULAS.items():
        yield words, _as_adam(optimizer, places)


def _given(options: dict[str, Any], group: dict[str, Any]) -> dict[str, Any]:
    return options


def _faster(factor: float, group: dict[str, Any]) -> dict[str, Any]:
    return {"lr": factor * group["lr"]}


def _with(optimizer: Make, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Make:
    def make(parameters: Iterable[Any]) -> torch.optim.Optimizer:
        made = optimizer(parameters)
        for group in made.param_groups:
            changes = change(group)
            if not changes.keys() <= group.keys() or all(
                group[name] == value for name, value in changes.items()
            ):
                raise ValueError(f"{type(made).__name__} has none of {list(changes)} to change")
            group.update(changes)
        return made

    return make


def _without_decay(optimizer: Make) -> Make:
    """No decay of parameters that have one axis or none."""

    def make(parameters: Iterable[Any]) -> torch.optim.Optimizer:
        made = optimizer(parameters)
        for group in list(made.param_groups):
            if not group.get("weight_decay"):
                raise ValueError("there is no weight decay")
            short = [p for p in group["params"] if p.ndim < 2]
            group["params"] = [p for p in group["params"] if p.ndim > 1]
            if short:
                made.add_param_group({**group, "params": short, "weight_decay": 0.0})
        return made

    return make


def _after(hook: Callable[[Sequence[torch.Tensor]], None], optimizer: Make) -> Make:
    def make(parameters: Iterable[Any]) -> torch.optim.Optimizer:
        made = optimizer(parameters)
        held = [p for group in made.param_groups for p in group["params"]]
        made.register_step_pre_hook(lambda *_: hook([p.grad for p in held if p.grad is not None]))
        return made

    return make


def _as_adam(optimizer: Make, places: dict[str, Any]) -> Make:
    def make(parameters: Iterable[Any]) -> torch.optim.Optimizer:
        made = optimizer(parameters)
        if not isinstance(made, torch.optim.Adam):  # AdamW is one
            raise ValueError(f"{type(made).__name__} is no Adam")
        if any(map(_differs_from_adam, made.param_groups)):
            raise ValueError("its formula is another one")
        if "unscaled" in places and not all(g["weight_decay"] for g in made.param_groups):
            raise ValueError("there is no weight decay")
        return _Adam(made.param_groups, **places)

    return make


def _differs_from_adam(group: dict[str, Any]) -> bool:
    """Whether a group's options make the formula another one than `_Adam`'s."""
    with_l2 = group["weight_decay"] and not group["decoupled_weight_decay"]
    return bool(group["amsgrad"] or group["maximize"] or with_l2)
