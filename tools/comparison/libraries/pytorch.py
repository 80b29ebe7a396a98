"""PyTorch: the truth that the others are compared with."""

from typing import Any

import numpy as np

from tools.comparison.libraries.library import (
    Library,
    Outcome,
    Weights,
    between_layers,
    quiet,
    valid_steps,
)


class Torch(Library):
    """torch.nn.LSTM, the truth."""

    package = "torch"
    module = "torch.nn"

    def params(self, weights: Weights, dtype: Any = None) -> Any:
        import torch

        hidden = weights["weight_ih_l0"].shape[0] // 4
        proj = weights["weight_hh_l0"].shape[1] if "weight_hr_l0" in weights else 0
        lstm = torch.nn.LSTM(
            weights["weight_ih_l0"].shape[1],
            hidden,
            num_layers=sum(name.startswith("weight_ih") and "rev" not in name for name in weights),
            bidirectional="weight_ih_l0_reverse" in weights,
            proj_size=proj,
            batch_first=True,
        )
        lstm.to(torch.tensor(weights["weight_ih_l0"]).dtype)
        lstm.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
        return lstm if dtype is None else lstm.to(getattr(torch, dtype))

    def apply(self, params: Any, x: Any, **options: Any) -> Outcome:
        import torch
        from torch.nn.utils import rnn

        x = torch.as_tensor(x).to(params.weight_ih_l0.dtype)
        state = options.get("initial_state")
        state = None if state is None else tuple(map(torch.as_tensor, state))
        params.batch_first = not options.get("time_major", False)
        if options.get("lengths") is None:
            return params(x, state)
        lengths = torch.as_tensor(options["lengths"])
        packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        outputs, final = params(packed, state)
        total = x.shape[1]
        return rnn.pad_packed_sequence(outputs, batch_first=True, total_length=total)[0], final

    def initial(self, features: int, hidden: int) -> list[np.ndarray]:
        import torch

        return [p.detach().numpy() for p in torch.nn.LSTM(features, hidden).parameters()]

    def dropout(self) -> str:
        import torch

        def spread(layers: int) -> float:
            lstm = torch.nn.LSTM(2, 8, num_layers=layers, dropout=0.5)
            return float((lstm(torch.ones(4, 2))[0] - lstm(torch.ones(4, 2))[0]).abs().max())

        with quiet():  # torch warns that a single layer gets no dropout
            return between_layers(spread)

    def reads_state_dicts(self) -> bool:
        import torch

        return hasattr(torch.nn.LSTM, "load_state_dict")

    def gradient(self, weights: Weights, x: np.ndarray, **options: Any) -> np.ndarray:
        import torch

        leaf: Any = torch.tensor(x, requires_grad=True)
        valid_steps(self.apply(self.params(weights), leaf, **options)[0], options).pow(
            2
        ).sum().backward()
        return leaf.grad.numpy()

    def trained(self, weights: Weights, x: np.ndarray, rate: float) -> np.ndarray:
        import torch

        lstm = self.params(weights)
        self.apply(lstm, x)[0].pow(2).sum().backward()
        torch.optim.SGD(lstm.parameters(), lr=rate).step()
        return self.apply(lstm, x)[0].detach().numpy()

    def tangent(self, weights: Weights, x: np.ndarray) -> np.ndarray:
        import torch

        primal = torch.tensor(x)
        lstm = self.params(weights)
        along = torch.ones_like(primal)
        outcome = torch.func.jvp(lambda x: self.apply(lstm, x)[0], (primal,), (along,))
        return outcome[1].detach().numpy()

    def own_gradient(self, weights: Weights, x: np.ndarray) -> bool:
        outputs = self.apply(self.params(weights, "float32"), x)[0]
        seen, queue = set(), [outputs.grad_fn]
        while queue:
            node = queue.pop()
            seen.add(type(node).__name__)
            queue += [parent for parent, _ in node.next_functions if parent is not None]
        return any("RnnLayer" in name or "Cudnn" in name for name in seen)
