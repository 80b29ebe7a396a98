"""`parity.check`: a PyTorch model, a Flax model, an input → a report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from flax import nnx

from parity import arguments
from parity.checks import Progress
from parity.compare import compare_sides
from parity.place import ONE_CASE, Case
from parity.report import Report
from parity.sides import data, pair
from parity.sides.losses import MEAN_SQUARED_ERROR, Loss
from parity.sides.optimizers import OPTIMIZERS, Optimizer
from parity.sides.paired import Names
from parity.sides.side import TARGET, Arrays, Pair
from parity.sides.variants import varied
from parity.tolerances import DTYPES

Inputs = np.ndarray | tuple[np.ndarray, ...] | Mapping[str, np.ndarray]
"""What the models are called with: one array, several by position, or several by name."""


def check(
    torch_model: torch.nn.Module,
    flax_model: nnx.Module | Callable[..., Any],
    x: Inputs,
    *,
    keywords: Mapping[str, np.ndarray] | None = None,
    names: Names | None = None,
    ignore: Sequence[str] = (),
    stages: Mapping[str, str] | None = None,
    variants: Sequence[str] = (),
    loss: Loss = MEAN_SQUARED_ERROR,
    targets: Mapping[str, np.ndarray] | None = None,
    known: Mapping[str, str] | None = None,
    dtypes: Sequence[str] = DTYPES,
    training_steps: int = 10,
    optimizers: Sequence[Optimizer] = OPTIMIZERS,
    seed: int = 0,
    progress: Progress = lambda what: None,
) -> Report:
    """Compare two models: parameters, forward pass, gradients, training.

    The models are neither converted nor changed. Each optimizer trains both sides from the models'
    parameters over the same batches, which are drawn from x.

    Args:
        torch_model: the reference.
        flax_model: the candidate, which returns the same arrays: a module, or a function of the
            reference's state dict (names → arrays) and the inputs.
        x: the inputs of both models; a tuple if they take several arrays by position. An LSTM
            takes (x, lengths), (x, h_0, c_0) and (x, h_0, c_0, lengths), the network of this
            package (x, lengths).
        keywords: inputs that both models take by keyword.
        names: Flax path → torch path of modules and parameters whose names differ; a tuple of torch
            paths where weights are tied.
        ignore: patterns of torch names that have no counterpart in Flax.
        stages: torch path → Flax path of the submodules to compare; None: all that both have.
        variants: other inputs to check, too, each as a case of the report, without training: any of
            "loud" (30 times x), "quiet" (a thousandth of x) and "padded" (other lengths, for models
            that take an input called `lengths`, or are of this package). Integers and arrays of
            zeros and ones stay as they are; a variant that changes nothing is left out.
        loss: the loss of the gradients and of training.
        targets: inputs that only the loss reads, by name; if the loss needs a `target` that is not
            among them, it is drawn at random.
        known: differences that are known, a pattern → the reason. A row that differs fails nothing
            if the pattern matches its name, `fc`, or its check and name, `local/fc`. The report
            shows it as a known difference. It also says which ones did not occur, and fails if a
            pattern matches no row.
        dtypes: any of "float64", which shows errors in the equations, and "float32" and "bfloat16",
            which show errors in the arithmetic. Models and parameters are cast to each, and all
            values are first rounded to the narrowest of them; bfloat16 is not trained.
        training_steps: steps for each optimizer and dtype; 0 leaves training out.
        optimizers: rows of `parity.optimizers`.
        seed: the seed of targets and batches.
        progress: called with a line that says what is being checked.

    Returns:
        The report, in order of computation; `report.assert_passed()` raises unless it passed.

    Raises:
        TypeError: a model is of an unsupported type.
        ValueError: the reference does not take x, or a parameter has no counterpart, or there are
            more than 10,000 training steps.
    """
    arguments.refuse(
        loss=loss, known=known, optimizers=optimizers, training_steps=training_steps, seed=seed,
        ignore=ignore, dtypes=dtypes, stages=stages, progress=progress,
    )  # fmt: skip
    variants = variants if isinstance(variants, str) else tuple(variants)
    inputs = arguments.inputs(
        data.named(x, torch_model, flax_model), arguments.arrays("keywords", keywords)
    )
    targets = arguments.targets(targets, inputs, loss)
    sides = pair.of_modules(
        torch_model, flax_model, {**inputs, **targets}, names=names, ignore=ignore, stages=stages,
        loss=loss, keywords=tuple(keywords or ()), targets=tuple(targets),
        known=known,
    )  # fmt: skip
    lengths = data.lengths_of(inputs, torch_model, flax_model)
    cases = varied(inputs, variants, lengths)
    if "padded" in variants and lengths is None and "lengths" not in inputs:
        words = "the variant padded is left out: no input is called lengths; give x by names"
        sides = replace(sides, notes=(*sides.notes, words))
    return Report.joined(
        check_pair(
            sides, {**changed, **targets}, targeted=loss.targeted and TARGET not in targets,
            dtypes=dtypes, training_steps=0 if variant else training_steps, optimizers=optimizers,
            seed=seed, case=Case("", variant), progress=progress,
        )
        for variant, changed in cases
    )  # fmt: skip


def check_pair(
    pair: Pair,
    inputs: Arrays,
    *,
    training_steps: int,
    optimizers: Sequence[Optimizer] = OPTIMIZERS,
    seed: int = 0,
    dtypes: Sequence[str] = DTYPES,
    case: Case = ONE_CASE,
    targeted: bool = True,
    progress: Progress = lambda what: None,
) -> Report:
    """`check` for an existing pair, whose compiled functions are reused.

    Args:
        targeted: whether a `target` for the loss has to be drawn.
    """
    arguments.limit_steps(training_steps)
    rng = np.random.default_rng([seed, 1])  # the caller may have drawn x from the seed itself
    shape = data.target_shape(pair.reference, inputs) if targeted else ()

    def with_target(inputs: Arrays) -> dict[str, np.ndarray]:
        return {**inputs, TARGET: rng.standard_normal(shape)} if targeted else dict(inputs)

    first = with_target(inputs)
    batches = [with_target(data.another_batch(inputs, rng)) for _ in range(training_steps)]
    return compare_sides(
        pair, first, dtypes=dtypes, optimizers=optimizers, batches=batches, case=case,
        facts={"seed": seed}, progress=progress,
    )  # fmt: skip
