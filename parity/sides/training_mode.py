"""Training mode: what it does that evaluation mode does not, and how both sides are put in it.

If either side does anything in training mode that it does not do in evaluation mode, both are
trained in training mode. Dropout draws different masks in the two frameworks, so training runs with
rates of 0, and one pass forward and backward with fixed masks (`parity.sides.fixed_masks`).
Statistics of BatchNorm, and all that is not trained, are compared after every step. PyTorch moves
the running variance towards the batch's sum of squares over n − 1, `nnx.BatchNorm` towards that
over n: the reference of an `nnx.BatchNorm` is computed over n, too.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from flax import nnx

from flax_bilstm.conversion.rows import Row
from flax_bilstm.conversion.tree import dotted
from parity.sides import dropout
from parity.sides.both_modes import OTHER_SHAPES, Shown
from parity.sides.intercept import nnx_submodules, torch_submodules
from parity.sides.nnx_running import put_in_training
from parity.sides.nnx_side import NnxSide
from parity.sides.settings import Setting, distinct, of_all, of_pairs
from parity.sides.side import Arrays
from parity.sides.torch_side import TorchSide

_BATCH_NORM = torch.nn.modules.batchnorm._BatchNorm
MOMENTUM = "momentum of running averages"
FLAGS = ("deterministic", "use_running_average")
"""What Flax sets in every module that has it, to put it in a mode."""
COUNT = "num_batches_tracked"
FUNCTIONS = "the reference draws masks by functions, such as F.dropout"
ONLY = "what else training mode does, such as statistics"
NOTE = (
    "nnx.BatchNorm is trained with use_fast_variance=False; its running variance is over n, "
    "PyTorch's over n − 1: compared over n"
)


class Arranged(NamedTuple):
    """What of training mode can be judged.

    Attributes:
        settings: settings to compare.
        only: what of training mode can be compared, in words; "" for nothing.
        notes: what cannot be judged, in words.
    """

    settings: tuple[Setting, ...] = ()
    only: str = ""
    notes: tuple[str, ...] = ()


def arrange(
    reference: TorchSide,
    candidate: NnxSide,
    flax_model: nnx.Module,
    shown: Shown,
    read: Arrays,
    stages: Mapping[str, str],
) -> Arranged:
    """Let both sides train in training mode, if that does anything and the reference is not random.

    Args:
        reference: the reference, which is changed.
        candidate: the candidate, which is changed.
        flax_model: its module.
        shown: what the reference does in training mode.
        read: the inputs of the models.
        stages: torch path → Flax path of all submodules with the same name.
    """
    theirs, ours = torch_submodules(reference.module), nnx_submodules(flax_model)
    rates = of_all("dropout rate", dropout.rates(theirs).values(), dropout.rates(ours).values())
    momenta = _momenta(theirs, ours, stages, shown.changed)
    problem, reference.trained_elsewhere = shown.problem, shown.trained
    trains = shown.differs or _has_modes(candidate, ours)
    moved = candidate.moved_in_training(read) if trains else {}
    streams = tuple(_own_streams(ours))
    if any(name.startswith(streams) for name in moved):
        problem = "the candidate draws from random streams outside of Flax's layers"
    if problem:
        reference.untrainable = problem if problem == OTHER_SHAPES and shown.trained else ""
        words = f": {rates.words}" if rates.reference or rates.candidate else ""
        return Arranged(momenta, notes=(f"training mode is not run: {problem}{words}",))
    notes, reference.masks = _keyless(ours), shown.masks
    if shown.kept:
        kept = ", ".join(shown.kept)
        notes.append(f"torch_model keeps what no state dict has, so it is not compared: {kept}")
    only = False
    if trains:
        norms = dict(_norms(candidate.rows, ours))
        over_n = [path for path, norm in norms.items() if _is_over_n(norm)]
        uncounted = [path for path, norm in norms.items() if isinstance(norm, nnx.BatchNorm)]
        uncounted += [n.rpartition(".")[0] for n in candidate.absent if n.endswith(COUNT)]
        start = partial(start_torch, over_n=over_n, uncounted=uncounted)
        reference.start_training = start
        candidate.running.start_training = start_flax
        reference.drops, only = shown.by_functions, True
        attributes = ", ".join(sorted(n for n, is_variable in moved.items() if not is_variable))
        if attributes:
            notes.append(
                f"in training mode flax_model changes {attributes}, which is no variable: each "
                "step begins with its first value; make it an nnx.Variable"
            )
        notes += [NOTE] if over_n else []
    drops = bool(shown.masks or rates.reference or rates.candidate)
    words = FUNCTIONS if shown.by_functions else rates.words
    return Arranged(momenta, words if drops else ONLY if only else "", tuple(notes))


def _norms(rows: Sequence[Row], ours: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """torch path → the candidate's module that has the running variance of the module there."""
    for row in rows:
        for name in row.torch_names:
            path, _, own = name.rpartition(".")
            if own == "running_var":
                yield path, ours.get(dotted(row.paths[0][:-1]))


def _is_over_n(module: Any) -> bool:
    """Whether it is an `nnx.BatchNorm`, or one that computes what that does."""
    return isinstance(module, nnx.BatchNorm) and type(module).__call__ is nnx.BatchNorm.__call__


def _keyless(ours: Mapping[str, Any]) -> list[str]:
    """A note on layers of Dropout that have no random stream, if there are any."""
    drops = {path: module for path, module in ours.items() if isinstance(module, nnx.Dropout)}
    paths = [path for path in dropout.rates(drops) if not drops[path].rngs]
    what = "nnx.Dropout has no rngs, which each call must be given"
    return [f"{what}: {', '.join(paths)}"] if paths else []


def _has_modes(candidate: NnxSide, ours: Mapping[str, Any]) -> bool:
    """Whether training mode may change what the candidate does: code may ask a Dropout for it.

    Flax's attention does nothing in it but Dropout, whose rate is known; one of 0 does nothing.
    """
    if candidate.running.training_call != candidate.running.call:
        return True
    own = nnx.Module.train
    return any(
        getattr(type(module), "train", own) is not own or any(hasattr(module, f) for f in FLAGS)
        for module in ours.values()
        if not (type(module) is nnx.MultiHeadAttention or _is_idle(module))
    )


def _is_idle(module: Any) -> bool:
    return type(module) is nnx.Dropout and module.rate == 0


def of_function(reference: TorchSide, shown: Shown) -> Arranged:
    """`arrange` for a candidate that is a function, which has no layers and no statistics."""
    theirs = torch_submodules(reference.module)
    rates = distinct(dropout.rates(theirs).values())
    seen = [f"Dropout {list(rates)}"] if rates else []
    seen += ["BatchNorm"] if any(isinstance(m, _BATCH_NORM) for m in theirs.values()) else []
    others = [
        shown.problem,
        "Dropout" if shown.masks else "",
        "what only training mode does" * shown.differs,
    ]
    seen = seen or [words for words in others if words][:1]
    if not seen:
        return Arranged()
    words = f"training mode is not run, since the candidate is a function: {' and '.join(seen)}"
    return Arranged(notes=(words,))


def _own_streams(ours: Mapping[str, Any]) -> Iterator[str]:
    """The paths of random streams outside of Flax's layers: of a Dropout of the user's own."""
    streams, containers = nnx.Rngs | nnx.RngStream, nnx.Dict | nnx.List
    for path, module in ours.items():
        if isinstance(module, containers) or not type(module).__module__.startswith("flax."):
            for name, held in vars(module).items():
                if isinstance(held, streams):
                    yield f"{path}.{name}.".lstrip(".")


def _momenta(
    theirs: Mapping[str, Any],
    ours: Mapping[str, Any],
    stages: Mapping[str, str],
    changed: frozenset[str] | None,
) -> tuple[Setting, ...]:
    """The momenta of layers with the same name; a BatchNorm of the user's own shows in training.

    Only of those whose statistics change in training mode, if `changed` is known.
    """
    # In PyTorch's meaning: the weight of the new value. In Flax it is that of the old one.
    reference = {
        p: m.momentum
        for p, m in theirs.items()
        if isinstance(m, _BATCH_NORM)
        and m.momentum
        and m.running_mean is not None
        and (changed is None or f"{p}.running_mean" in changed)
    }
    candidate = {
        p: round(1 - m.momentum, 9) for p, m in ours.items() if isinstance(m, nnx.BatchNorm)
    }
    momenta = of_pairs(MOMENTUM, reference, candidate, stages)
    swapped = momenta.reference == tuple(round(1 - value, 9) for value in momenta.candidate)
    hint = "; PyTorch's 0.1 is Flax's 0.9: write momentum=1 − PyTorch's" if swapped else ""
    return (replace(momenta, hint=momenta.hint + hint),) if momenta.reference else ()


def start_torch(
    model: torch.nn.Module, over_n: Iterable[str] = (), uncounted: Iterable[str] = ()
) -> None:
    """Put the model in training mode.

    Args:
        model: the model, which is changed.
        over_n: the BatchNorms whose running variance is to be that of `nnx.BatchNorm`.
        uncounted: those whose batches are not to be counted, since `nnx.BatchNorm` counts none.
    """
    model.train()
    over_n, uncounted = set(over_n), set(uncounted)
    for path, module in model.named_modules():
        if isinstance(module, _BATCH_NORM) and module.running_var is not None:
            module.register_forward_hook(_corrected(module, path in over_n, path in uncounted))


def start_flax(model: nnx.Module) -> None:
    """Put the model in training mode, without Dropout."""
    put_in_training(model)
    dropout.stop(nnx_submodules(model).values())


def _corrected(module: Any, over_n: bool, uncounted: bool) -> Callable[..., None]:
    """A hook that undoes the count of batches, and the factor n / (n − 1) of the new variance."""
    before = module.running_var.clone()

    def hook(module: Any, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal before
        if torch.equal(before, module.running_var):  # the model keeps it in evaluation mode
            return
        with torch.no_grad():
            if module.momentum is not None:  # without one, the count is the weight's denominator
                if uncounted:
                    module.num_batches_tracked.sub_(1)
                if over_n:
                    n = output.numel() // output.shape[1]
                    kept = (1 - module.momentum) * before
                    # Not in place: the backward pass may need the former tensor.
                    module.running_var = kept + (module.running_var - kept) * (n - 1) / n
            before = module.running_var.clone()

    return hook
