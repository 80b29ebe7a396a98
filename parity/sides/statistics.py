"""Running statistics that were never updated, and so hide how evaluation mode uses them.

A mean of 0 can be added instead of subtracted, and a variance of 1 left out: nothing computed from
them differs, and they have no gradients. So the forward pass is run once more, on others.
"""

from typing import TypeVar

import numpy as np
import torch

from parity.sides.side import Pair, cast

AnyPair = TypeVar("AnyPair", bound=Pair)
KINDS = torch.nn.modules.batchnorm._NormBase
"""The layers that have them: BatchNorm, and InstanceNorm."""


def fresh(module: torch.nn.Module) -> tuple[str, ...]:
    """The names of the running means that are 0 and the variances that are 1."""
    layers = ((p, m) for p, m in module.named_modules() if isinstance(m, KINDS))
    names = (
        (f"{path}.{name}".lstrip("."), tensor)
        for path, layer in layers
        for name, tensor in layer.named_buffers()
        if tensor.is_floating_point()
    )
    return tuple(name for name, tensor in names if ((tensor == 0) | (tensor == 1)).all())


def moved(pair: AnyPair) -> AnyPair:
    """The pair with such statistics moved by 0.5 to 1.5, so that a variance stays positive."""
    held = pair.reference.parameters
    rng = np.random.default_rng(0)

    def other(array: np.ndarray) -> np.ndarray:
        return cast({"": array + rng.uniform(0.5, 1.5, array.shape)}, str(array.dtype))[""]

    both = {n: other(array) if n in pair.fresh else array for n, array in held.items()}
    return pair.holding(both, both)
