"""What a planted fault is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from parity.diagnosis.match import UNKNOWN
from parity.selftest import planting
from parity.sides.losses import MEAN_SQUARED_ERROR, Loss
from parity.sides.optimizers import Optimizer

__all__ = ["SHOWS", "UNKNOWN", "Fault", "Needs", "cell", "more_steps_than", "square"]

Held = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Needs:
    """What a fault needs of the sizes of its case to be visible: in words, and as a condition."""

    words: str = "nothing"
    met: Callable[[Held, Held], bool] = lambda batch, held: True


def more_steps_than(steps: int) -> Needs:
    """The inputs must have more time steps than this."""
    return Needs(f"more than {steps} time steps", lambda batch, held: batch["x"].shape[1] > steps)


def square(name: str) -> Needs:
    """A matrix that is transposed must be square, or its shape shows the fault."""
    return Needs(f"{name} to be square", lambda batch, held: len(set(held[name].shape)) == 1)


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
        says: what the diagnosis must contain: all words of the known mistake, or a part of any
            other note; `UNKNOWN` if no known mistake explains the fault, so that none may be named.
        plant: puts the fault into the code.
        hold: puts the fault into the candidate's parameters.
        case: the network and its inputs, a key of `parity.selftest.networks.NETWORKS`.
        optimizer: the optimizer to train with: right in the reference, faulty in the candidate.
        loss: the loss: right in the reference, faulty in the candidate.
        needs: what the sizes of the case must be for the fault to be visible.
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
    needs: Needs = Needs()

    def check_sizes(self, batch: Held, held: Held) -> None:
        """Raise if the fault cannot be seen at the sizes of this batch and these parameters.

        Raises:
            ValueError: it needs other sizes.
        """
        if not self.needs.met(batch, held):
            sizes = {name: array.shape for name, array in {**batch, **held}.items()}
            raise ValueError(
                f"{self.name!r} in {self.case!r} needs {self.needs.words}, got {sizes}: change "
                "the sizes in parity/selftest/networks, or plant the fault in another network"
            )

    @property
    def has_name(self) -> bool:
        """Whether a known mistake explains it."""
        return self.says != UNKNOWN


def cell(number: str, gate: str) -> str:
    """The stage of a part of a direction of the first layer."""
    return f"lstm.layer0.{number}.{gate}"
