"""The functions of a side for any `torch.nn.Module`."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
import torch

from parity.losses import Loss
from parity.optimizers import Optimizer
from parity.port import TARGET, Arrays, Gradients, Side, Step, cast, differentiable

Stages = Callable[[torch.nn.Module, Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]
"""(module, inputs) → every stage by name in order of computation, the last one the output."""

Local = Callable[
    [torch.nn.Module, Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]],
    Mapping[str, torch.Tensor],
]
"""(module, inputs, given) → the same stages, each computed from the given ones before it."""


def torch_side(
    module: torch.nn.Module,
    stages: Stages,
    loss: Loss,
    name: str = "torch",
    local: Local | None = None,
) -> Side:
    """A side that runs copies of the module, in evaluation mode, on the device it is on.

    Args:
        module: never changed.
        stages: runs the module and names what it computes on the way.
        loss: what gradients and training descend, of the last stage and the input `target`.
        name: what reports call this side.
        local: runs every stage from given values, where the side can be run so.
    """

    def build(parameters: Arrays, dtype: str) -> torch.nn.Module:
        model = copy.deepcopy(module).to(getattr(torch, dtype)).eval()
        values = cast(parameters, dtype)
        model.load_state_dict({n: _tensor(a) for n, a in values.items()})
        return model

    def tensors(arrays: Arrays, dtype: str) -> dict[str, torch.Tensor]:
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        values = cast(arrays, dtype)
        return {n: _tensor(a).to(device) for n, a in values.items()}

    def loss_of(model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        *_, output = stages(model, inputs).values()
        value: torch.Tensor = loss.torch(output, inputs[TARGET])
        return value

    def forward(parameters: Arrays, inputs: Arrays, dtype: str) -> Arrays:
        with torch.no_grad():
            values = stages(build(parameters, dtype), tensors(inputs, dtype))
        return {n: _array(value) for n, value in values.items()}

    def each_alone(parameters: Arrays, inputs: Arrays, given: Arrays, dtype: str) -> Arrays:
        assert local is not None
        with torch.no_grad():
            model = build(parameters, dtype)
            values = local(model, tensors(inputs, dtype), tensors(given, dtype))
        return {n: _array(value) for n, value in values.items()}

    def gradients(parameters: Arrays, inputs: Arrays, dtype: str) -> Gradients:
        model, given = build(parameters, dtype), tensors(inputs, dtype)
        sources = {n: given[n].requires_grad_() for n in differentiable(inputs)}
        loss_of(model, given).backward()
        backward = [*reversed(list(model.named_parameters())), *sources.items()]
        return {n: None if t.grad is None else _array(t.grad) for n, t in backward}

    def train(
        parameters: Arrays, batches: Sequence[Arrays], optimizer: Optimizer, dtype: str
    ) -> Iterator[Step]:
        model = build(parameters, dtype)
        updates = optimizer.torch(model.parameters())
        for batch in batches:
            updates.zero_grad()
            value = loss_of(model, tensors(batch, dtype))
            value.backward()
            updates.step()
            yield left_behind(value, model, updates, optimizer)

    def update(
        parameters: Arrays, slopes: Sequence[Gradients], optimizer: Optimizer, dtype: str
    ) -> Iterator[Step]:
        model = build(parameters, dtype)
        updates = optimizer.torch(model.parameters())
        for given in slopes:
            slope = tensors({n: a for n, a in given.items() if a is not None}, dtype)
            for n, parameter in model.named_parameters():
                parameter.grad = slope.get(n)
            updates.step()
            yield left_behind(torch.zeros(()), model, updates, optimizer)

    def left_behind(
        value: torch.Tensor,
        model: torch.nn.Module,
        updates: torch.optim.Optimizer,
        optimizer: Optimizer,
    ) -> Step:
        moments: dict[str, np.ndarray | None] = {}
        for n, parameter in model.named_parameters():
            held = updates.state.get(parameter, {})
            for moment in optimizer.moments:
                tensor = held.get(moment)
                moments[f"{n}.{moment}"] = None if tensor is None else _array(tensor)
        return Step(_array(value), _state(model), moments)

    alone = None if local is None else each_alone
    return Side(name, _state(module), forward, gradients, train, alone, update)


def _state(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: _array(tensor) for name, tensor in module.state_dict().items()}


def _array(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    if tensor.dtype is torch.bfloat16:  # which NumPy has from ml_dtypes only, by way of JAX
        return tensor.view(torch.int16).numpy().copy().view(jnp.bfloat16)
    return tensor.numpy().copy()


def _tensor(array: np.ndarray) -> torch.Tensor:
    if array.dtype == jnp.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())
