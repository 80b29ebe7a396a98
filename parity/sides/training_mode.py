"""Training mode: what it does that evaluation mode does not, and how both sides are put in it.

Dropout draws different masks in the two frameworks, so the layers' rates are compared, and training
runs with rates of 0. BatchNorm's statistics are compared after every step. PyTorch moves the
running variance towards the batch's sum of squares over n − 1, `nnx.BatchNorm` towards that over n:
the reference of an `nnx.BatchNorm` is computed over n, too. By default that layer subtracts the
squared mean from the mean square, which loses digits where the mean is far from 0; it is run
without.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from flax import nnx

from parity.sides import dropout
from parity.sides.intercept import nnx_submodules, torch_submodules
from parity.sides.nnx_side import NnxSide
from parity.sides.settings import Called, Setting, distinct, never_called, setting
from parity.sides.side import Arrays, outputs
from parity.sides.torch_side import TorchSide
from parity.tolerances import TRUTH

_BATCH_NORM = torch.nn.modules.batchnorm._BatchNorm
MOMENTUM = "momentum of running averages"
NOTE = (
    "nnx.BatchNorm is trained with use_fast_variance=False; its running variance is over n, "
    "PyTorch's over n − 1: compared over n"
)


def arrange(
    reference: TorchSide,
    candidate: NnxSide,
    flax_model: nnx.Module,
    inputs: Arrays,
    stages: Mapping[str, str],
) -> tuple[tuple[Setting, ...], list[str]]:
    """Let both sides train in training mode, if they have statistics and neither is random in it.

    Args:
        reference: the reference, which is changed.
        candidate: the candidate, which is changed.
        flax_model: its module.
        inputs: the inputs to run the reference on.
        stages: torch path → Flax path of all submodules with the same name.

    Returns:
        The settings that can be judged, and notes.
    """

    def called(theirs: Iterable[str], ours: Iterable[str]) -> tuple[list[str], list[str]]:
        return reference.called(theirs, inputs), candidate.called(ours, inputs)

    found = settings(reference.module, flax_model, stages, called)
    ours = nnx_submodules(flax_model)
    modules = (*reference.module.modules(), *ours.values())
    stateful = any(isinstance(module, _BATCH_NORM | nnx.BatchNorm) for module in modules)
    if not stateful and not found:
        return (), _unseen(reference, inputs)
    over_n = [path for path, own in stages.items() if isinstance(ours[own], nnx.BatchNorm)]
    start = partial(start_torch, over_n=over_n)
    problem = _problem(partial(reference.output_of, inputs, start), ours.values())
    if problem:
        words = "; ".join(setting.words for setting in found if setting.name != MOMENTUM)
        judged = tuple(setting for setting in found if setting.name == MOMENTUM)
        return judged, [": ".join(filter(None, (f"training mode is not run: {problem}", words)))]
    if not stateful:
        return tuple(found), _unseen(reference, inputs)
    reference.start_training, candidate.running.start_training = start, start_flax
    return tuple(found), [NOTE] if over_n else []


def of_function(reference: TorchSide, inputs: Arrays) -> tuple[tuple[Setting, ...], list[str]]:
    """`arrange` for a candidate that is a function, which has no layers and no statistics."""
    theirs = torch_submodules(reference.module)
    rates = distinct(dropout.rates(theirs).values())
    seen = [f"Dropout {list(rates)}"] if rates else []
    seen += ["BatchNorm"] if any(isinstance(m, _BATCH_NORM) for m in theirs.values()) else []
    what = f"training mode is not run, since the candidate is a function: {' and '.join(seen)}"
    return (), [what] if seen else _unseen(reference, inputs)


def _unseen(reference: TorchSide, inputs: Arrays) -> list[str]:
    """A note if the reference computes something else in training mode, but for its layers of
    Dropout: `F.dropout`, noise, more outputs. In evaluation mode, nothing shows it."""
    stages = reference.forward(reference.parameters, inputs, TRUTH)
    usual = {name: stages[name] for name in outputs(stages, reference.output)}
    try:
        with torch.random.fork_rng():
            trained = reference.output_of(inputs, start_torch)
    except Exception as error:  # the user's code can raise anything
        return [f"training mode is not run: the reference raises {type(error).__name__}: {error}"]
    if usual.keys() == trained.keys() and all(
        np.array_equal(trained[name], array, equal_nan=True) for name, array in usual.items()
    ):
        return []
    return ["training mode is not run: the reference computes something else in it"]


def _problem(run: Callable[[], Arrays], ours: Iterable[Any]) -> str:
    """Why training mode cannot be judged; empty if it can."""
    if any(map(_draws, ours)):
        return "the candidate has random streams outside of Flax's layers"
    outputs = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            try:
                outputs.append(run())
            except Exception as error:  # the user's code can raise anything
                return f"the reference raises {type(error).__name__}: {error}"
    if any(not np.array_equal(outputs[1][n], a, equal_nan=True) for n, a in outputs[0].items()):
        return "the reference is random in it, even without its Dropout layers"
    return ""


def _draws(module: Any) -> bool:
    """Whether it is not Flax's and has random streams: it may be a Dropout of the user's own."""
    streams = nnx.Rngs | nnx.RngStream
    return not type(module).__module__.startswith("flax") and any(
        isinstance(held, streams) for held in vars(module).values()
    )


def settings(
    torch_model: torch.nn.Module,
    flax_model: nnx.Module,
    stages: Mapping[str, str],
    called: Called = never_called,
) -> list[Setting]:
    """The rates of Dropout and the momentum of running averages, if either side has any."""
    theirs, ours = torch_submodules(torch_model), nnx_submodules(flax_model)
    rates = setting("dropout rate", dropout.rates(theirs), dropout.rates(ours), stages, called)
    found = [rates] if rates.reference or rates.candidate else []
    # In PyTorch's meaning: the weight of the new value. In Flax it is that of the old one.
    reference = {p: m.momentum or 0.0 for p, m in theirs.items() if isinstance(m, _BATCH_NORM)}
    candidate = {
        p: round(1 - m.momentum, 9) for p, m in ours.items() if isinstance(m, nnx.BatchNorm)
    }
    if reference and candidate:  # a BatchNorm of the user's own shows in the statistics alone
        momenta = setting(MOMENTUM, reference, candidate, stages)
        swapped = momenta.reference == tuple(round(1 - value, 9) for value in momenta.candidate)
        hint = "; PyTorch's 0.1 is Flax's 0.9: write momentum=1 − PyTorch's" if swapped else ""
        found.append(replace(momenta, hint=momenta.hint + hint))
    return found


def start_torch(model: torch.nn.Module, over_n: Iterable[str] = ()) -> None:
    """Put the model in training mode, without Dropout, and without counting batches.

    Args:
        model: the model, which is changed.
        over_n: the BatchNorms whose running variance is to be that of `nnx.BatchNorm`.
    """
    model.train()
    dropout.stop(model.modules())
    over_n = set(over_n)
    for path, module in model.named_modules():
        if isinstance(module, _BATCH_NORM) and module.running_var is not None:
            module.register_forward_hook(_left_alone(module.running_var, path in over_n))


def start_flax(model: nnx.Module) -> None:
    """Put the model in training mode, without Dropout and without fast variances."""
    model.train()
    modules = nnx_submodules(model).values()
    dropout.stop(modules)
    for module in modules:
        if isinstance(module, nnx.BatchNorm):
            module.use_fast_variance = False


def _left_alone(start: torch.Tensor, over_n: bool) -> Callable[..., None]:
    """A hook that undoes the count of batches, and the factor n / (n − 1) of the new variance."""

    before = start.clone()

    def hook(module: Any, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal before
        with torch.no_grad():
            if module.momentum is not None:  # without one, the count is the weight's denominator
                module.num_batches_tracked.sub_(1)
                if over_n:
                    n = inputs[0].numel() // inputs[0].shape[1]
                    kept = (1 - module.momentum) * before
                    # Not in place: the backward pass may need the former tensor.
                    module.running_var = kept + (module.running_var - kept) * (n - 1) / n
            before = module.running_var.clone()

    return hook
