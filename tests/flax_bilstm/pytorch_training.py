"""The network trained by PyTorch, whose optimizer then has a state."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import torch_ref

BEFORE, AFTER = 12, 50
rng = np.random.default_rng(0)
X = rng.standard_normal((BEFORE + AFTER, 4, 5, 3))
Y = rng.standard_normal((BEFORE + AFTER, 4, 2))


def torch_steps(model: Any, optimizer: Any, steps: range) -> None:
    for i in steps:
        optimizer.zero_grad()
        output = model(torch.tensor(X[i], dtype=model.fc.weight.dtype))
        target = torch.tensor(Y[i], dtype=model.fc.weight.dtype)
        torch.nn.functional.mse_loss(output, target).backward()
        optimizer.step()


def trained(
    make: Callable[[Any], Any], steps: int = BEFORE, dtype: Any = torch.float64
) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = torch_ref.BiLSTMWithAttention(3, 4, 2).to(dtype)
    optimizer = make(model.parameters())
    torch_steps(model, optimizer, range(steps))
    return model, optimizer
