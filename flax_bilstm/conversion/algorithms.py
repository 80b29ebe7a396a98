"""The table of PyTorch's optimizers that optax can reproduce: how each is recognized and called.

https://docs.pytorch.org/docs/stable/optim.html#algorithms
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Settings = Mapping[str, Any]
"""The options of one parameter group: lr, weight_decay and so on."""

Call = tuple[str, dict[str, Any]]
"""The name of an optax function, and its keyword arguments."""


class Algorithm(NamedTuple):
    """One of PyTorch's optimizers.

    Attributes:
        title: its name.
        options: name → NUMBER, PAIR or FLAG, for all the options by which its parameter groups are
            recognized.
        moments: torch's name of a tensor in the state → the field of optax's state.
        needs: a moment → the option without which neither PyTorch nor optax stores it.
        refused: options that optax computes differently → the value at which they have no effect.
        calls: settings and the learning rate → the optax calls, chained, that take the same step.
    """

    title: str
    options: dict[str, str]
    moments: dict[str, str]
    needs: dict[str, str]
    refused: dict[str, Any]
    calls: Callable[[Settings, Any], list[Call]]

    def kept(self, settings: Settings) -> dict[str, str]:
        """The moments of a group with these settings."""
        return {
            moment: field
            for moment, field in self.moments.items()
            if moment not in self.needs or settings[self.needs[moment]]
        }


NUMBER, PAIR, FLAG = "a finite number of at least 0", "two numbers in [0, 1)", "True or False"
OPTIONAL = {"maximize": FLAG, "decoupled_weight_decay": FLAG, "initial_lr": NUMBER}
"""Options that are missing in the groups of some versions and schedules."""


def _adam(settings: Settings, rate: Any) -> list[Call]:
    b1, b2 = settings["betas"]
    options = {"learning_rate": rate, "b1": b1, "b2": b2, "eps": settings["eps"]}
    decay = settings["weight_decay"]
    if decay and settings["decoupled_weight_decay"]:
        return [("adamw", {**options, "weight_decay": decay})]
    return [*_decay(settings), ("adam", options)]


def _sgd(settings: Settings, rate: Any) -> list[Call]:
    options = {"learning_rate": rate}
    if settings["momentum"]:
        options["momentum"] = settings["momentum"]
    if settings["nesterov"]:
        options["nesterov"] = True
    return [*_decay(settings), ("sgd", options)]


def _rmsprop(settings: Settings, rate: Any) -> list[Call]:
    options = {
        "learning_rate": rate,
        "decay": settings["alpha"],
        "eps": settings["eps"],
        "eps_in_sqrt": False,
    }
    if settings["centered"]:
        options["centered"] = True
    return [*_decay(settings), ("rmsprop", options)]


def _adadelta(settings: Settings, rate: Any) -> list[Call]:
    options = {"learning_rate": rate, "rho": settings["rho"], "eps": settings["eps"]}
    return [*_decay(settings), ("adadelta", options)]


def _decay(settings: Settings) -> list[Call]:
    """Weight decay that is added to the gradient."""
    decay = settings["weight_decay"]
    return [("add_decayed_weights", {"weight_decay": decay})] if decay else []


ALGORITHMS = (
    Algorithm(
        "Adam or AdamW",
        {"lr": NUMBER, "betas": PAIR, "eps": NUMBER, "weight_decay": NUMBER, "amsgrad": FLAG},
        {"exp_avg": "mu", "exp_avg_sq": "nu"},
        {},
        {"amsgrad": False, "maximize": False},
        _adam,
    ),
    Algorithm(
        "SGD",
        {
            "lr": NUMBER,
            "momentum": NUMBER,
            "dampening": NUMBER,
            "nesterov": FLAG,
            "weight_decay": NUMBER,
        },
        {"momentum_buffer": "trace"},
        {"momentum_buffer": "momentum"},
        {"dampening": 0, "maximize": False},
        _sgd,
    ),
    Algorithm(
        "RMSprop",
        {
            "lr": NUMBER,
            "alpha": NUMBER,
            "eps": NUMBER,
            "centered": FLAG,
            "momentum": NUMBER,
            "weight_decay": NUMBER,
        },
        {"square_avg": "nu", "grad_avg": "mu"},
        {"grad_avg": "centered"},
        {"momentum": 0, "maximize": False},
        _rmsprop,
    ),
    Algorithm(
        "Adadelta",
        {"lr": NUMBER, "rho": NUMBER, "eps": NUMBER, "weight_decay": NUMBER},
        {"square_avg": "e_g", "acc_delta": "e_x"},
        {},
        {"maximize": False},
        _adadelta,
    ),
)
