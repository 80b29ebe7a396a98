"""Training mode: what it does that evaluation mode does not, and how both sides are put in it.

Dropout draws different masks in the two frameworks, so training runs with rates of 0, and one
forward pass with fixed numbers instead of masks (`parity.sides.dropout`). BatchNorm's statistics
are compared after every step. PyTorch moves the running variance towards the batch's sum of squares
over n − 1, `nnx.BatchNorm` towards that over n: the reference of an `nnx.BatchNorm` is computed
over n, too.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from flax import nnx

from parity.sides import dropout
from parity.sides.intercept import nnx_submodules, torch_submodules
from parity.sides.nnx_running import put_in_training
from parity.sides.nnx_side import NnxSide
from parity.sides.settings import Setting, distinct, of_all, of_pairs
from parity.sides.side import Arrays
from parity.sides.torch_side import TorchSide

_BATCH_NORM = torch.nn.modules.batchnorm._BatchNorm
MOMENTUM = "momentum of running averages"
RANDOM = "the reference is random in it, even without its Dropout"
NOTE = (
    "nnx.BatchNorm is trained with use_fast_variance=False; its running variance is over n, "
    "PyTorch's over n − 1: compared over n"
)


class Arranged(NamedTuple):
    """What of training mode can be judged.

    Attributes:
        settings: settings to compare.
        dropout: the rates of Dropout in words, if the outputs in training mode can be compared.
        notes: what cannot be judged, in words.
    """

    settings: tuple[Setting, ...] = ()
    dropout: str = ""
    notes: tuple[str, ...] = ()


def arrange(
    reference: TorchSide,
    candidate: NnxSide,
    flax_model: nnx.Module,
    inputs: Arrays,
    stages: Mapping[str, str],
) -> Arranged:
    """Let both sides train in training mode, if they have statistics and neither is random in it.

    Args:
        reference: the reference, which is changed.
        candidate: the candidate, which is changed.
        flax_model: its module.
        inputs: the inputs to run the reference on.
        stages: torch path → Flax path of all submodules with the same name.
    """
    theirs, ours = torch_submodules(reference.module), nnx_submodules(flax_model)
    rates = of_all("dropout rate", dropout.rates(theirs).values(), dropout.rates(ours).values())
    momenta = _momenta(theirs, ours, stages)
    modules = (*theirs.values(), *ours.values())
    stateful = any(isinstance(module, _BATCH_NORM | nnx.BatchNorm) for module in modules)
    drops, problem = shown_by(reference, inputs, stateful)
    drops = drops or bool(rates.reference or rates.candidate)
    if any(map(_draws, ours.values())):
        problem = "the candidate has random streams outside of Flax's layers"
    if problem:
        words = f": {rates.words}" if rates.reference or rates.candidate else ""
        return Arranged(momenta, "", (f"training mode is not run: {problem}{words}",))
    notes = _keyless(ours)
    if stateful:
        notes += _train_statistics(reference, candidate, ours, inputs, stages)
    settings, words = momenta, rates.words if drops else ""
    in_theirs, in_ours = dropout.attention(theirs), dropout.attention(ours)
    if dropout.rates(in_ours):
        notes.append("of the Dropout in nnx.MultiHeadAttention, only the rate is compared")
        if in_ours.keys() <= {own for path, own in stages.items() if path in in_theirs}:
            reference.attention_drops = candidate.running.attention_drops = False
            name, every = "dropout rate of attention", dropout.every_rate
            settings = (of_pairs(name, every(in_theirs), every(in_ours), stages), *momenta)
        else:
            settings, words = (rates, *momenta), ""
    return Arranged(settings, words, tuple(notes))


def _keyless(ours: Mapping[str, Any]) -> list[str]:
    """A note on layers of Dropout that have no random stream, if there are any."""
    drops = {path: module for path, module in ours.items() if isinstance(module, nnx.Dropout)}
    paths = [path for path in dropout.rates(drops) if not drops[path].rngs]
    what = "nnx.Dropout has no rngs, which each call must be given"
    return [f"{what}: {', '.join(paths)}"] if paths else []


def _train_statistics(
    reference: TorchSide,
    candidate: NnxSide,
    ours: Mapping[str, Any],
    inputs: Arrays,
    stages: Mapping[str, str],
) -> list[str]:
    """Let both sides train in training mode, if the reference is not random in it; and notes."""
    over_n = [path for path, own in stages.items() if isinstance(ours[own], nnx.BatchNorm)]
    start = partial(start_torch, over_n=over_n)
    run = partial(reference.output_of, inputs, start)
    if not _equal(_seeded(0, run), _seeded(1, run)):
        return [f"statistics are not trained: {RANDOM}"]
    reference.start_training, candidate.running.start_training = start, start_flax
    return [NOTE] if over_n else []


def of_function(reference: TorchSide, inputs: Arrays) -> Arranged:
    """`arrange` for a candidate that is a function, which has no layers and no statistics."""
    theirs = torch_submodules(reference.module)
    rates = distinct(dropout.rates(theirs).values())
    seen = [f"Dropout {list(rates)}"] if rates else []
    seen += ["BatchNorm"] if any(isinstance(m, _BATCH_NORM) for m in theirs.values()) else []
    if not seen:
        drops, problem = shown_by(reference, inputs, stateful=False)
        if not drops and not problem:
            return Arranged()
        seen = [problem or "Dropout"]
    words = f"training mode is not run, since the candidate is a function: {' and '.join(seen)}"
    return Arranged(notes=(words,))


def shown_by(reference: TorchSide, inputs: Arrays, stateful: bool) -> tuple[bool, str]:
    """Whether the reference has any Dropout, and why its training mode cannot be judged, or "".

    Args:
        reference: the reference.
        inputs: the inputs to run it on.
        stateful: whether either side has statistics: then training mode need not have the output
            of evaluation mode.
    """

    def run(by: str) -> tuple[Arrays, bool]:
        mode = dropout.FixedDropout(by)
        output = reference.output_of(inputs, dropout.train, mode=mode)
        return output, mode.replaces_all

    plain = reference.output_of(inputs, torch.nn.Module.eval)
    try:
        masked, replaced = _seeded(0, partial(run, dropout.POSITIONS))
        if replaced and not stateful and _equal(plain, masked):
            return False, ""
        again, _ = _seeded(1, partial(run, dropout.POSITIONS))
        without, _ = _seeded(0, partial(run, ""))
    except Exception as error:  # the user's code can raise anything
        return False, f"the reference raises {type(error).__name__}: {error}"
    if not _equal(masked, again):
        return False, RANDOM
    if not replaced:
        return False, "the reference draws a mask that it does not multiply by"
    if not stateful and not _equal(plain, without):
        return False, "the reference computes something else in it"
    return not _equal(masked, without), ""


def _seeded(seed: int, run: Callable[[], Any]) -> Any:
    """The result of a run that draws from this seed, after which torch draws as before."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return run()


def _equal(one: Arrays, other: Arrays) -> bool:
    """Whether both are the same but for rounding: evaluation mode may run other operators."""
    return one.keys() == other.keys() and all(
        array.shape == other[name].shape
        and np.allclose(array, other[name], rtol=1e-9, atol=1e-12, equal_nan=True)
        for name, array in one.items()
    )


def _draws(module: Any) -> bool:
    """Whether it is not Flax's and has random streams: it may be a Dropout of the user's own."""
    streams = nnx.Rngs | nnx.RngStream
    return not type(module).__module__.startswith("flax") and any(
        isinstance(held, streams) for held in vars(module).values()
    )


def _momenta(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], stages: Mapping[str, str]
) -> tuple[Setting, ...]:
    """The momenta of layers with the same name; a BatchNorm of the user's own shows in training."""
    # In PyTorch's meaning: the weight of the new value. In Flax it is that of the old one.
    reference = {p: m.momentum or 0.0 for p, m in theirs.items() if isinstance(m, _BATCH_NORM)}
    candidate = {
        p: round(1 - m.momentum, 9) for p, m in ours.items() if isinstance(m, nnx.BatchNorm)
    }
    momenta = of_pairs(MOMENTUM, reference, candidate, stages)
    swapped = momenta.reference == tuple(round(1 - value, 9) for value in momenta.candidate)
    hint = "; PyTorch's 0.1 is Flax's 0.9: write momentum=1 − PyTorch's" if swapped else ""
    return (replace(momenta, hint=momenta.hint + hint),) if momenta.reference else ()


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
    """Put the model in training mode, without Dropout."""
    put_in_training(model)
    dropout.stop(nnx_submodules(model).values())


def _left_alone(start: torch.Tensor, over_n: bool) -> Callable[..., None]:
    """A hook that undoes the count of batches, and the factor n / (n − 1) of the new variance."""

    before = start.clone()

    def hook(module: Any, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal before
        if not module.training:  # the model keeps it in evaluation mode
            return
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
