"""Dropout without chance: the same masks on both sides, which are fixed.

The two frameworks draw different masks. So a training run has none; and a run in training mode has
masks that depend on `POSITIONS`, on the shape and the rate, and on the number of the call: this
fits every right port that has the same layout there, and calls its layers in the same order. Others
have the masks elsewhere. So if that run fails, the numbers that take their place depend on the
`VALUES`: the function of one number that this gives has no layout, may change places with a ReLU, a
transpose or a slice, but with no product, normalization or maximum. What passes neither has a
Dropout that is not where it should be.

Fixed masks do not show whether a call draws another mask than other calls, and than it drew before:
`recorded_keys` is for that.
"""

from typing import Any

import numpy as np

POSITIONS, VALUES = "positions", "values"
WAVES = 20.0
"""How often `VALUES` rise and fall."""


def fixed_mask(shape: tuple[int, ...], rate: float, call: int) -> np.ndarray:
    """Zeros and ones of this shape, as many zeros as the rate says; neither only zeros nor ones.

    Args:
        shape: the shape of the mask, 1 along an axis that shares it.
        rate: the probability of zeroing an element.
        call: the number of the call, from 0.
    """
    fewer = min(rate, 1 - rate)  # 1 − m, for a mask m of the other rate, is the same mask
    mask = np.full(shape, float(rate <= 0.5))
    size = min(max(round(mask.size * fewer), 1), mask.size - 1)
    mask.flat[np.random.default_rng(call).permutation(mask.size)[:size]] = float(rate > 0.5)
    return mask


def varied(x: Any, rate: float, mask: tuple[int, ...], framework: Any) -> Any:
    """What takes the place of a Dropout by `VALUES`.

    Args:
        x: an array or tensor of any shape.
        rate: the probability of zeroing an element.
        mask: the shape of the mask, with as many axes as x; 1 where it is shared.
        framework: `torch` or `jax.numpy`.
    """
    shared = tuple(axis for axis, size in enumerate(mask) if size < x.shape[axis])
    # The ReLU, since a mask that is shared may change places with one, too.
    kept = framework.where(x > 0, x, framework.zeros_like(x)) if shared else x
    squares = (kept * kept).mean(shared, keepdims=True) if shared else kept * kept
    squares = framework.where(squares > 0, squares, framework.ones_like(squares))
    # It rises and falls, since a function that only rises may change places with a maximum; by
    # much, so that another element becomes the largest.
    return x * (1 + rate**0.25 * framework.sin(1 + WAVES * framework.log(squares)))
