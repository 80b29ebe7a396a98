"""Vectors that are still 0 or 1, as layers begin, and so hide how they are used.

A running mean of 0 can be added instead of subtracted, and a variance of 1 left out: nothing
computed from them differs, and they have no gradients. A scale of 1 can multiply a bias of 0, too.
So the forward pass is run once more, on others.
"""

from typing import TypeVar

import numpy as np
import torch

from parity.sides.side import Pair, cast

AnyPair = TypeVar("AnyPair", bound=Pair)


def fresh_vectors(module: torch.nn.Module) -> tuple[tuple[str, ...], ...]:
    """The parameters and buffers, numbers and vectors, that are nothing but 0 or nothing but 1.

    Each is given by its names, several if it is tied. Other values of a mask may have no meaning.
    """
    names: dict[int, tuple[str, ...]] = {}
    every = (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    )
    for name, held in every:
        is_vector = held.is_floating_point() and 0 < held.numel() == max(held.shape, default=1)
        still = is_vector and ((held == 0).all() or (held == 1).all())
        if still and "mask" not in name.rpartition(".")[2]:
            names[id(held)] = (*names.get(id(held), ()), name)
    return tuple(names.values())


def moved(pair: AnyPair) -> AnyPair:
    """The pair with these vectors moved up by 0.5 to 1.5, so that a variance stays positive."""
    held = pair.reference.parameters
    rng = np.random.default_rng(0)

    def other(array: np.ndarray) -> np.ndarray:
        return cast({"": array + rng.uniform(0.5, 1.5, array.shape)}, str(array.dtype))[""]

    both = dict(held)
    for names in pair.fresh:
        there = [name for name in names if name in held]  # others are ignored
        both.update(dict.fromkeys(there, other(held[there[0]])) if there else {})
    return pair.holding(both, both)
