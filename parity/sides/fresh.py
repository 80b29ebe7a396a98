"""Parameters and buffers that are still 0 or 1, as layers begin, and so hide how they are used.

A running mean of 0 can be added instead of subtracted, and a variance of 1 left out: nothing
computed from them differs, and they have no gradients. A scale of 1 can multiply a bias of 0, too.
What a factor of 0 multiplies has no gradients either. So both are run once more, on others.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from parity.sides.side import Arrays, Pair, cast, floating, outputs
from parity.sides.torch_arrays import view_of
from parity.sides.torch_side import TorchSide
from parity.tolerances import TRUTH

AnyPair = TypeVar("AnyPair", bound=Pair)


def movable(reference: TorchSide, inputs: Arrays) -> tuple[tuple[tuple[str, ...], ...], list[str]]:
    """The names of each such array on whose other values the reference runs; notes on others.

    An array that is tied has several names.
    """
    found, held = _fresh(reference.module), reference.parameters
    known = [names for names in found if any(name in held for name in names)]
    if not known:
        return (), []
    unknown = _nan(reference, held, inputs)

    def problem(chosen: Sequence[tuple[str, ...]]) -> str:
        try:
            nan = _nan(reference, other_values(held, chosen), inputs)
        except Exception as error:  # the user's code can raise anything
            return f"raises {type(error).__name__}: {error}"
        return "gives NaN" if nan > unknown else ""

    first = problem(known)
    if not first:
        return tuple(known), []
    without_whole = [names for names in known if floating(_held(held, names))]
    chosen = without_whole if not problem(without_whole) else []
    rest = ", ".join(names[0] for names in known if names not in chosen)
    return tuple(chosen), [f"with other numbers for {rest}, torch_model {first}"]


def _nan(reference: TorchSide, parameters: Arrays, inputs: Arrays) -> int:
    """How many numbers of the output are none."""
    stages = reference.forward(parameters, inputs, TRUTH)
    return sum(int(np.isnan(stages[name]).sum()) for name in outputs(stages, reference.output))


def _fresh(module: torch.nn.Module) -> list[tuple[str, ...]]:
    """Arrays of 0, and vectors of 1; if nothing trains them, of any one number, and identities.

    Also copies of others that are not tied to them, such as the weights of a target network.

    Other values of a mask may have no meaning. Of a count of batches, no layer of Flax knows.
    """
    names: dict[int, tuple[str, ...]] = {}
    copies: dict[tuple[Any, ...], torch.Tensor] = {}
    every = (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    )
    for name, held in every:
        own = name.rpartition(".")[2]
        is_vector, trained = held.numel() == max(held.shape, default=1), held.requires_grad
        still = not held.any() or (is_vector and bool((held == 1).all()))
        still |= not trained and (_is_one_number(held) or _is_identity(held))
        still |= held.numel() > 1 and copies.setdefault(_content(held), held) is not held
        if held.numel() and still and "mask" not in own and own != "num_batches_tracked":
            names[id(held)] = (*names.get(id(held), ()), name)
    return list(names.values())


def _content(held: torch.Tensor) -> tuple[Any, ...]:
    """What only equal tensors have alike."""
    digest = hashlib.sha256(view_of(held).tobytes()).digest()
    return held.dtype, held.shape, digest


def _is_one_number(held: torch.Tensor) -> bool:
    """Whether all elements are the same: it may be mixed up with another, or its complement."""
    is_real = held.is_floating_point() and bool(held.isfinite().all())
    return bool((held == 1).all()) or (is_real and bool((held == held.flatten()[:1]).all()))


def _is_identity(held: torch.Tensor) -> bool:
    """Whether it is an identity matrix, which is its own transpose and inverse."""
    square = held.ndim == 2 and held.shape[0] == held.shape[1]
    return square and bool((held == torch.eye(len(held), device=held.device)).all())


def moved(pair: AnyPair) -> AnyPair:
    """The pair with other values for these."""
    both = other_values(pair.reference.parameters, pair.fresh)
    return pair.holding(both, both)


def other_values(held: Arrays, fresh: Sequence[tuple[str, ...]]) -> dict[str, np.ndarray]:
    """The parameters and buffers with other values for these.

    Zeros become 0.1 to 0.9, as a probability is, and ones larger, since they may be variances.

    Others become smaller. Whole numbers are moved by 1, as an index may be, and booleans turned.
    """
    rng = np.random.default_rng(0)

    def other(array: np.ndarray) -> np.ndarray:
        if not floating(array):
            return ~array if array.dtype == bool else array + array.dtype.type(1)
        if array.any() and not (array == 1).any():
            return cast({"": array * rng.uniform(0.5, 0.9, array.shape)}, str(array.dtype))[""]
        least, most = (0.5, 1.5) if array.any() else (0.1, 0.9)
        return cast({"": array + rng.uniform(least, most, array.shape)}, str(array.dtype))[""]

    both = dict(held)
    for names in fresh:
        there = [name for name in names if name in held]  # others are ignored
        both.update(dict.fromkeys(there, other(_held(held, names))))
    return both


def _held(held: Arrays, names: Sequence[str]) -> np.ndarray:
    return next(held[name] for name in names if name in held)
