"""What a PyTorch module does in training mode that it does not in evaluation mode."""

import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from parity.sides import dropout
from parity.sides.kept import array_of_kept, outside_of_state
from parity.sides.losses import ONE_SHAPE, SQUARES
from parity.sides.side import AFTER, Arrays, Gradients, cast, outputs, without_target
from parity.sides.torch_arrays import array_of
from parity.sides.torch_copy import copied
from parity.sides.torch_masks import FixedDropout
from parity.sides.torch_side import TorchSide
from parity.tolerances import TRUTH

KEPT = " kept"
OTHER_SHAPES = "its output has other shapes in it; give a loss= that takes both"
CALLS = 2
"""What the first call keeps, in whatever, may show in the second one."""
RANDOM = "the reference is random in it, even without its Dropout"


class Shown(NamedTuple):
    """What the reference does in training mode.

    Attributes:
        masks: how many masks a call draws.
        by_functions: whether it draws any without a layer of Dropout.
        differs: whether it does anything else there that it does not do in evaluation mode.
        problem: why its training mode cannot be judged, or "".
        trained: the parameters that have a gradient in it alone, such as those of another head.
        changed: the parameters and buffers that a call changes in it alone; None if not known.
        kept: tensors that a call adds to a module, or changes in it alone; no state dict has them.
        unused: what has no gradient in evaluation mode.
        moved: the parameters and buffers that a call changes in evaluation mode.
    """

    masks: int = 0
    by_functions: bool = False
    differs: bool = False
    problem: str = ""
    trained: frozenset[str] = frozenset()
    changed: frozenset[str] | None = None
    kept: tuple[str, ...] = ()
    unused: frozenset[str] = frozenset()
    moved: tuple[str, ...] = ()


def shown_with(shown: Shown, reference: TorchSide, others: Arrays, inputs: Arrays) -> Shown:
    """What is shown; whether it differs, also by other values of what is still 0 or 1.

    Args:
        shown: what the reference shows by its own values.
        reference: the reference.
        others: its parameters and buffers with other values.
        inputs: what it reads.
    """
    if shown.differs or shown.problem:
        return shown
    other = shown_by(reference.holding(others), inputs)
    return shown._replace(differs=other.differs and not other.problem)


def shown_by(reference: TorchSide, inputs: Arrays) -> Shown:
    """Run the reference in both modes, forward and backward, in training mode without masks."""

    def run(start: Callable[[torch.nn.Module], Any], calls: int = 1) -> dict[str, Any]:
        read = without_target(inputs)
        arrays, model = reference.run_copy(read, start, mode, SQUARES, calls=calls)
        after = {f"{n}{AFTER}": array_of(tensor) for n, tensor in model.state_dict().items()}
        return {**arrays, **after, **_kept(model)}

    if any(_generates(module) for module in reference.module.modules()):
        return Shown(problem=RANDOM)
    mode = FixedDropout()
    try:
        plain = run(torch.nn.Module.eval)
        mode = FixedDropout()
        with _generators() as drawn:
            trained = run(dropout.train, calls=CALLS)
            is_random = mode.random or drawn()
    except Exception as error:  # the user's code can raise anything
        return Shown(problem=f"the reference raises {type(error).__name__}: {error}")
    if not is_random and not _equal(plain, trained):
        again = run(dropout.train, calls=CALLS)  # the generator may be one that nobody knows
        is_random = not _equal(*map(_without_kept, (trained, again)))  # a clock is no matter
    if is_random:
        return Shown(problem=RANDOM)
    if not mode.replaces_all:
        return Shown(problem="the reference draws a mask that it does not multiply by")
    alone = {n for n, a in trained.items() if a is not None and plain.get(n, a) is None}
    held = cast(reference.parameters, TRUTH).items()
    apart = [n for n in plain if n in trained and not _near(plain[n], trained[n])]
    apart += _new(reference.module, {**trained, **plain})
    problem = ""
    if reference.loss in ONE_SHAPE and _shapes(plain, reference) != _shapes(trained, reference):
        problem = OTHER_SHAPES
    masks = len(mode.states) // CALLS
    if masks:
        mode = FixedDropout()
        run(_train_without_layers)
    return Shown(
        masks, bool(masks and mode.states), not _equal(plain, trained), problem, frozenset(alone),
        frozenset(n.removesuffix(AFTER) for n in apart if n.endswith(AFTER)),
        tuple(dict.fromkeys(n.removesuffix(KEPT) for n in apart if n.endswith(KEPT))),
        frozenset(n for n, array in plain.items() if array is None),
        tuple(name for name, array in held if not _near(plain[name + AFTER], array)),
    )  # fmt: skip


def _without_kept(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {name: array for name, array in arrays.items() if not name.endswith(KEPT)}


def _new(module: torch.nn.Module, arrays: Mapping[str, Any]) -> Iterator[str]:
    """What a call has kept outside of the state dict that was not there, or had other numbers.

    Not a whole number that was not there, which is a size of the input.
    """
    before = _kept(copied(module))
    for name, array in arrays.items():
        if name.endswith(KEPT):
            is_size = name not in before and not array.ndim and array.dtype.kind in "biu"
            if not is_size and not (name in before and _near(array, before[name])):
                yield name


def _train_without_layers(model: torch.nn.Module) -> None:
    model.train()
    dropout.stop(model.modules())


def _shapes(shown: Mapping[str, Any], reference: TorchSide) -> dict[str, tuple[int, ...]]:
    return {n: shown[n].shape for n in outputs(shown, reference.output)}


def _kept(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {f"{n}{KEPT}": array_of_kept(held) for n, held in outside_of_state(model).items()}


@contextmanager
def _generators() -> Iterator[Callable[[], bool]]:
    """Let all generators draw afterwards as before; yields whether they drew."""
    python, numpy = random.getstate(), np.random.get_state()
    before = pickle.dumps((python, numpy))
    try:
        with torch.random.fork_rng():
            yield lambda: pickle.dumps((random.getstate(), np.random.get_state())) != before
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _equal(one: Gradients, other: Gradients) -> bool:
    """Whether both are the same but for rounding: evaluation mode may run other operators."""
    return one.keys() == other.keys() and all(_near(array, other[n]) for n, array in one.items())


def _near(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    if one.shape != other.shape:
        return False
    if not {one.dtype.kind, other.dtype.kind}.isdisjoint("USO"):
        return bool(np.array_equal(one, other))
    return np.allclose(one, other, rtol=1e-9, atol=1e-12, equal_nan=True)


def _generates(module: torch.nn.Module) -> bool:
    """Whether it has a generator of random numbers."""
    kinds = torch.Generator | np.random.Generator | np.random.RandomState | random.Random
    return any(isinstance(held, kinds) for held in vars(module).values())
