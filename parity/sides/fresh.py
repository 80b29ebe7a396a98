"""Parameters and buffers that are still 0 or 1, as layers begin, and so hide how they are used.

A running mean of 0 can be added instead of subtracted, and a variance of 1 left out: nothing
computed from them differs, and they have no gradients. A scale of 1 can multiply a bias of 0, too.
What a factor of 0 multiplies has no gradients either. So both are run once more, on others.
"""

from typing import TypeVar

import numpy as np
import torch

from parity.sides.side import Pair, cast

AnyPair = TypeVar("AnyPair", bound=Pair)


def fresh_arrays(module: torch.nn.Module) -> tuple[tuple[str, ...], ...]:
    """The parameters and buffers that are nothing but 0, and numbers and vectors of 1.

    Each is given by its names, several if it is tied. Other values of a mask may have no meaning.
    """
    names: dict[int, tuple[str, ...]] = {}
    every = (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    )
    for name, held in every:
        is_vector = held.numel() == max(held.shape, default=1)
        still = not held.any() or (is_vector and bool((held == 1).all()))
        if (
            held.is_floating_point()
            and held.numel()
            and still
            and "mask" not in name.rpartition(".")[2]
        ):
            names[id(held)] = (*names.get(id(held), ()), name)
    return tuple(names.values())


def moved(pair: AnyPair) -> AnyPair:
    """The pair with these moved up by 0.5 to 1.5, so that a variance stays positive."""
    held = pair.reference.parameters
    rng = np.random.default_rng(0)

    def other(array: np.ndarray) -> np.ndarray:
        return cast({"": array + rng.uniform(0.5, 1.5, array.shape)}, str(array.dtype))[""]

    both = dict(held)
    for names in pair.fresh:
        there = [name for name in names if name in held]  # others are ignored
        both.update(dict.fromkeys(there, other(held[there[0]])) if there else {})
    return pair.holding(both, both)
