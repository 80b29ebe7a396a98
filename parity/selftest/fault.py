"""What a planted fault is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from parity.diagnosis.match import UNKNOWN
from parity.selftest import planting
from parity.sides.losses import MEAN_SQUARED_ERROR, Loss
from parity.sides.optimizers import Optimizer

__all__ = ["SHOWS", "UNKNOWN", "Fault", "cell"]

Held = Mapping[str, np.ndarray]

SHOWS = {
    "parameters": "in what the model holds",
    "forward": "in every direction, at every step",
    "one direction": "in one direction only",
    "later steps": "after some time steps only",
    "padding": "in padded batches only",
    "gradients": "in gradients only",
    "float32": "in float32 only",
    "not finite": "as NaN or infinity on one side",
    "training": "in training only",
}


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: what the fault is.
        stage: the stage that the report's first divergence must name.
        shows: a key of SHOWS.
        says: what the diagnosis must contain: words for what is wrong, or `UNKNOWN` if no known
            mistake explains the fault, so that none may be named.
        plant: puts the fault into the code.
        hold: puts the fault into the candidate's parameters.
        case: the network and its inputs, a key of `parity.selftest.networks.NETWORKS`.
        optimizer: the optimizer to train with: right in the reference, faulty in the candidate.
        loss: the loss: right in the reference, faulty in the candidate.
    """

    name: str
    stage: str
    shows: str
    says: str = UNKNOWN
    plant: planting.Plant = planting.nothing
    hold: Callable[[Held], Held] = lambda held: held
    case: str = "plain"
    optimizer: Optimizer | None = None
    loss: Loss = MEAN_SQUARED_ERROR

    @property
    def has_name(self) -> bool:
        """Whether a known mistake explains it."""
        return self.says != UNKNOWN


def cell(number: str, gate: str) -> str:
    """The stage of a part of a direction of the first layer."""
    return f"lstm.layer0.{number}.{gate}"
