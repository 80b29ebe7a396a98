"""The checks of a pair: stages, forward pass, gradients and training, each as rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from parity import forward_again, layouts, lockstep, other_inputs
from parity.diagnosis.locate import locate
from parity.in_training_mode import in_training_mode
from parity.judge import Run, judge_run, raised
from parity.place import Case, Place
from parity.results import Row
from parity.sides.optimizers import Optimizer
from parity.sides.side import Arrays, Gradients, Pair, Side, beside, differentiable, outputs
from parity.tolerances import TRUTH

Progress = Callable[[str], None]
"""Called with what is about to be checked."""


@dataclass
class Checks:
    """One check, whose parameters and inputs are rounded.

    Attributes:
        pair: both sides; they lose stages that turn out to be in another layout.
        trains: the dtypes that are trained in.
        unseen: gets notes.
        losses: gets the losses of every training.
    """

    pair: Pair
    inputs: Arrays
    batches: Sequence[Arrays]
    dtypes: tuple[str, ...]
    trains: tuple[str, ...]
    optimizers: tuple[Optimizer, ...]
    case: Case
    progress: Progress
    unseen: list[str]
    losses: list[dict[str, Any]] = field(default_factory=list)

    def rows(self) -> list[Row]:
        """All rows but those of what was handed over."""
        for dtype in self.dtypes:
            optimizers = self.optimizers if dtype in self.trains else ()
            self.pair.candidate.prepare(self.inputs, dtype, optimizers)
        if self.trains:
            import_module("torch._dynamo")  # torch's optimizers import it, which takes a second
        truths = self._truths()
        unused = {name for name, slope in truths["gradients"].items() if slope is None}
        functions = {dtype: self._functions(dtype, truths) for dtype in self.dtypes}
        del truths  # frees memory for training
        if self.trains and self.pair.only:
            dtype = self.trains[0]
            functions[dtype] += in_training_mode(
                self.pair, self.inputs, dtype, self.case, self.unseen
            )
        rows: list[Row] = []
        for dtype in self.dtypes:
            rows += functions[dtype]
            for optimizer in self.optimizers if dtype in self.trains else ():
                rows += self._training(optimizer, dtype, unused)
        if self.pair.only and self.optimizers and self.trains:
            place = Place(self.case, forward_again.TRAINED, self.trains[0])
            other = forward_again.trained(self.pair, self.optimizers[0], self.batches)
            rows += forward_again.on_trained(other, self.inputs, place)
        return rows

    def located(self, rows: Sequence[Row]) -> list[Row]:
        """The row that explains the first failure, if there is one."""
        return locate(rows, self.pair, self.inputs, self.optimizers, self.batches)

    def _truths(self) -> dict[str, Any]:
        """The reference's stages and gradients in float64."""
        reference = self.pair.reference
        truths: dict[str, Any] = {
            "forward": reference.forward(reference.parameters, self.inputs, TRUTH),
            "gradients": reference.gradients(reference.parameters, self.inputs, TRUTH),
        }
        if not truths["forward"]:
            raise ValueError("reference: expected arrays by name of forward, got none")
        slopes = truths["gradients"].values()
        if self.trains and not any(map(np.any, slopes)):
            self.unseen.append(
                "every gradient is 0 at these inputs, which shows little of training"
            )
        return truths

    def _functions(self, dtype: str, truths: dict[str, Any]) -> list[Row]:
        """The rows of forward pass and gradients; in the first dtype, on other numbers, too."""
        self.progress(f"{self.case} {dtype}: forward and gradients")
        self.pair, rows = _in_one_layout(self.pair, self.inputs, dtype, self.case, truths)
        if dtype != self.dtypes[0] or any(row.failed for row in rows):
            return rows
        returned = outputs((row.name for row in rows), self.pair.reference.output)
        unknown = [row.name for row in rows if row.name in returned and not row.determined]
        if unknown:
            names = ", ".join(dict.fromkeys(unknown))
            self.unseen.append(f"only rounding determines {names} here, so it is not compared")
        place = Place(self.case, forward_again.AGAIN, dtype)
        rows += forward_again.on_moved(self.pair, self.inputs, rows, place)
        if not self.case.which and all(row.passed for row in rows):
            self.unseen += other_inputs.notes(self.pair, self.inputs, place)
        return rows

    def _training(self, optimizer: Optimizer, dtype: str, unused: set[str]) -> Sequence[Row]:
        """The rows of training by one optimizer."""
        self.progress(f"{self.case} {dtype}: training, {optimizer.name}")
        place = Place(self.case, "training", dtype, optimizer=optimizer.name)
        try:
            rows, losses = lockstep.train(self.pair, optimizer, self.batches, unused, place)
        except lockstep.CandidateError as error:
            return [raised(error.raised, place)]
        if dtype == self.trains[-1]:
            self.losses.append(
                {"case": str(self.case), "optimizer": optimizer.name, "dtype": dtype,
                 "loss": self.pair.loss, **losses._asdict()}
            )  # fmt: skip
        return rows


def _in_one_layout(
    pair: Pair, inputs: Arrays, dtype: str, case: Case, truths: dict[str, Any]
) -> tuple[Pair, list[Row]]:
    """The rows of `_functions`; the pair and `truths` lose stages that are in another layout."""
    rows = list(_functions(pair, inputs, dtype, case, truths))
    for why, found in layouts.KINDS.items():
        turned = found(pair, inputs, dtype, truths["forward"], rows)
        if not turned:
            continue
        other = layouts.without(pair, turned, why)
        stages = {n: a for n, a in truths["forward"].items() if n not in turned}
        others = list(_functions(other, inputs, dtype, case, {**truths, "forward": stages}))
        if layouts.is_elsewhere(pair, rows, others, turned):
            pair, rows, truths["forward"] = other, others, stages
    return pair, rows


def _at_floating(slopes: Gradients, side: Side, inputs: Arrays) -> Gradients:
    """Without those at inputs of 0 and 1, which a subclass of the user's may give."""
    of_masks = {name: () for name in inputs.keys() - set(differentiable(inputs))}
    return {n: a for n, a in slopes.items() if n not in beside(side.parameters, of_masks)}


def _functions(
    pair: Pair, inputs: Arrays, dtype: str, case: Case, truths: Mapping[str, Any]
) -> Iterator[Row]:
    """Rows of every stage alone, of the forward pass, and of the gradients in backward order."""
    stages = truths["forward"]
    runs: dict[str, Run] = {
        "local": lambda side, to: side.local(side.parameters, inputs, stages, to),
        "forward": lambda side, to: side.forward(side.parameters, inputs, to),
        "gradients": lambda side, to: _at_floating(
            side.gradients(side.parameters, inputs, to), side, inputs
        ),
    }
    if not (pair.reference.opens and pair.candidate.opens and len(stages) > 1):
        del runs["local"]
    for check, run in runs.items():
        yield from judge_run(pair, run, Place(case, check, dtype), truths.get(check, stages)).rows
