"""What the modules of PyTorch hold that no state dict has: tensors, arrays, numbers and words."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

DEPTH = 3
"""How deep containers and objects of the user's are read."""


def outside_of_state(module: torch.nn.Module) -> dict[str, Any]:
    """All of it by name, also what is in lists, dicts and objects; the mode is left out."""
    state = module.state_dict()
    found = {
        name: held
        for path, part in module.named_modules()
        for key, value in (*vars(part).items(), *part._buffers.items())
        for name, held in _leaves(f"{path}.{key}".lstrip("."), key, value, DEPTH)
        if key != "training"
    }
    return {name: held for name, held in found.items() if name not in state}


def array_of_kept(held: Any) -> np.ndarray:
    """It as an array; floating tensors in float64."""
    if not isinstance(held, torch.Tensor):
        return np.asarray(held)
    held = held.detach().cpu()
    return (held.double() if held.is_floating_point() else held).numpy()


def _leaves(name: str, key: str, held: Any, depth: int) -> Iterator[tuple[str, Any]]:
    numbers = isinstance(held, np.ndarray) and held.dtype.kind in "biufc"
    if numbers or isinstance(held, torch.Tensor | int | float | complex | str | np.number):
        yield name, held
    if key.startswith("_") or not depth:  # what PyTorch keeps itself
        return
    if isinstance(held, list | tuple | deque):
        items = [(f"{name}[{index}]", str(index), value) for index, value in enumerate(held)]
    elif isinstance(held, dict):
        items = [(f"{name}[{index}]", str(index), value) for index, value in held.items()]
    elif hasattr(held, "__dict__") and not isinstance(held, _OTHERS):
        items = [(f"{name}.{index}", index, value) for index, value in vars(held).items()]
    else:
        return
    for own, index, value in items:
        yield from _leaves(own, index, value, depth - 1)


_OTHERS = torch.nn.Module | torch.Tensor | type
