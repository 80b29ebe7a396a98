"""How a PyTorch module is trained by one optimizer."""

from collections.abc import Iterable

import numpy as np
import torch

from parity.sides.optimizers import Optimizer, OptimizerError, refuse_unknown
from parity.sides.side import Step
from parity.sides.torch_arrays import Tensors, array_of, view_of
from parity.sides.torch_gradients import differentiated


class Training:
    """Trains a module, as an ordinary loop of PyTorch would.

    Args:
        model: the module, which is changed.
        optimizer: its torch optimizer is used.
        names: the parameters and buffers that a step reports.
    """

    def __init__(self, model: torch.nn.Module, optimizer: Optimizer, names: Iterable[str]) -> None:
        self._model, self._optimizer, self._names = model, optimizer, tuple(names)
        self._updates = optimizer.torch(model.parameters())
        if isinstance(self._updates, torch.optim.LBFGS):
            raise OptimizerError(
                f"optimizer {optimizer.name!r}: expected one whose step needs no closure, got "
                "torch.optim.LBFGS, which computes the loss several times in a step"
            )

    def step(self, loss: torch.Tensor) -> Step:
        """One step on the gradients of the loss."""
        if loss.requires_grad:
            with differentiated():
                loss.backward()
        self._updates.step()
        self._updates.zero_grad()  # frees memory while other sides make their step
        return self._left_behind(loss)

    def along(self, gradients: Tensors) -> Step:
        """One step on these gradients; a parameter without one has None."""
        for name, parameter in self._model.named_parameters():
            parameter.grad = gradients.get(name)
        self._updates.step()
        return self._left_behind(torch.zeros(()))

    def _left_behind(self, loss: torch.Tensor) -> Step:
        moments: dict[str, np.ndarray | None] = {}
        states = self._updates.state
        known = set().union(*states.values())
        for moment in self._optimizer.moments if known else ():
            refuse_unknown(self._optimizer, "torch", moment, known)
        trained = dict(self._model.named_parameters(remove_duplicate=False))  # tied: by each name
        for name in self._names:
            kept = states.get(trained[name], {}) if name in trained else {}  # a buffer has none
            for moment in self._optimizer.moments:
                tensor = kept.get(moment)
                moments[f"{name}.{moment}"] = None if tensor is None else view_of(tensor)
        state = self._model.state_dict()
        return Step(array_of(loss), {n: view_of(state[n]) for n in self._names}, moments)
