"""The side of any `torch.nn.Module`."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch

from parity.sides import dropout, trees
from parity.sides.calls import POSITIONAL, Call
from parity.sides.in_float64 import torch_in, widens
from parity.sides.losses import MEAN_SQUARED_ERROR, Loss
from parity.sides.optimizers import Optimizer
from parity.sides.side import (
    AFTER,
    Arrays,
    Gradients,
    Side,
    Step,
    beside,
    cast,
    differentiable,
    without_target,
)  # fmt: skip
from parity.sides.torch_arrays import Tensors, array_of, tensor_of, view_of
from parity.sides.torch_copy import copied, in_dtype
from parity.sides.torch_gradients import differentiated, every_slope, loss_of, named_slopes
from parity.sides.torch_masks import FixedDropout
from parity.sides.torch_running import Running
from parity.sides.torch_training import Training
from parity.tolerances import TRUTH


class TorchSide(Side):
    """Runs copies of a module, in evaluation mode, on the device it is on.

    Args:
        module: the module; it is never changed.
        call: how to call the module.
        loss: the loss of the gradients and of training.
        training_call: how to call it in training mode; None for the same call.
        names: the parameters and buffers that have a counterpart; None for all.
        stages: paths of the submodules to intercept.
        with_ports: the submodules among them that are a pair of `parity.sides.ports`.
        chosen: the stages to collect; None for all of these submodules, () for none.
        alone: whether sequences with lengths are run one by one, unpadded, because the module takes
            no lengths.
        output: the name of the output.
        name: the name of this side in reports.
    """

    opens = True

    def __init__(
        self,
        module: torch.nn.Module,
        call: Call = POSITIONAL,
        loss: Loss = MEAN_SQUARED_ERROR,
        *,
        training_call: Call | None = None,
        names: Iterable[str] | None = None,
        stages: Iterable[str] = (),
        with_ports: Iterable[str] = (),
        chosen: frozenset[str] | None = None,
        alone: bool = False,
        output: str = "output",
        name: str = "torch",
    ) -> None:
        state = module.state_dict()
        names = list(state if names is None else names)
        super().__init__(name, {n: view_of(state[n]) for n in names})
        self.module, self.loss, self.output = module, loss, output
        self.wide = widens(self.parameters)
        self.running = Running(
            call, training_call or call, tuple(stages), tuple(with_ports), chosen, alone, output
        )
        trained = {n for n, parameter in every_parameter(module) if parameter.requires_grad}
        self.buffers = tuple(n for n in names if n not in trained)
        self.start_training: Callable[[torch.nn.Module], None] | None = None
        """Puts a copy in training mode before it is trained; by default evaluation mode is kept."""
        self.drops = False
        """Whether such a copy still draws masks, which are left out then."""
        self.trained_elsewhere: frozenset[str] = frozenset()
        """The parameters that only training mode uses, whose gradients are 0 in evaluation mode."""
        self.untrainable = ""
        """Why the loss cannot be computed in training mode, in which it is to be trained."""
        self._models: dict[str, torch.nn.Module] = {}

    def choosing(self, stages: frozenset[str]) -> Self:
        """The same side that collects only these stages."""
        other = copy.copy(self)
        other.running = replace(self.running, chosen=stages)
        return other

    def forward(self, parameters: Arrays, inputs: Arrays, dtype: str) -> Arrays:
        """See `Side`."""
        return self.local(parameters, inputs, {}, dtype)

    def local(self, parameters: Arrays, inputs: Arrays, values: Arrays, dtype: str) -> Arrays:
        """See `Side`."""
        with torch.no_grad(), torch_in(dtype, self.wide):
            model = self._model(parameters, dtype)
            read = self._tensors(without_target(inputs), dtype)
            own, _ = self.running.stages_of(model, read, self._tensors(values, dtype))
        return {n: array_of(value) for n, value in own.items()}

    def gradients(self, parameters: Arrays, inputs: Arrays, dtype: str) -> Gradients:
        """See `Side`."""
        return self._pull(parameters, inputs, {}, {}, dtype)[0]

    def cotangents(self, parameters: Arrays, inputs: Arrays, dtype: str) -> Arrays:
        """See `Side`."""
        values = self.forward(parameters, inputs, dtype)
        return self._pull(parameters, inputs, values, {}, dtype, forced=False)[1]

    def local_gradients(
        self, parameters: Arrays, inputs: Arrays, values: Arrays, cotangents: Arrays, dtype: str
    ) -> Gradients:
        """See `Side`."""
        by_parameter, by_stage = self._pull(parameters, inputs, values, cotangents, dtype)
        return {**dict(reversed(by_stage.items())), **by_parameter}

    def train(
        self, parameters: Arrays, batches: Sequence[Arrays], optimizer: Optimizer, dtype: str
    ) -> Iterator[Step]:
        """See `Side`."""
        if self.untrainable:
            raise ValueError(f"loss: torch_model is trained in training mode; {self.untrainable}")
        model = self._model(parameters, dtype, fresh=True)
        if self.start_training:
            self.start_training(model)
            dropout.stop(model.modules())
        del parameters  # nobody else may need them
        training = Training(model, optimizer, self.parameters)
        for batch in batches:
            inputs = self._tensors(batch, dtype)
            with torch_in(dtype, self.wide), self._mode_of_training():
                with differentiated():
                    output = self.running.output_of(model, inputs)
                step = training.step(loss_of(self.loss, output, inputs))
            yield step
            del step  # frees memory before the next one is computed

    @contextmanager
    def _mode_of_training(self) -> Iterator[None]:
        if not self.drops:
            yield
            return
        with torch.random.fork_rng(), FixedDropout():
            yield

    def update(
        self, parameters: Arrays, gradients: Sequence[Gradients], optimizer: Optimizer, dtype: str
    ) -> Iterator[Step]:
        """See `Side`."""
        training = Training(self._model(parameters, dtype, fresh=True), optimizer, self.parameters)
        del parameters  # nobody else may need them
        for given in gradients:
            held = {n: a for n, a in given.items() if a is not None}
            yield training.along(self._tensors(held, dtype))

    def in_training(self, by: str, parameters: Arrays, inputs: Arrays, dtype: str) -> Gradients:
        """See `Side`."""
        mode, start = FixedDropout(by), self.start_training or torch.nn.Module.train
        arrays, model = self.run_copy(inputs, start, mode, self.loss, parameters, dtype)
        state = model.state_dict()
        after = {f"{n}{AFTER}": array_of(state[n]) for n in self.parameters}
        return {**arrays, **beside(arrays, after)}

    def run_copy(
        self,
        inputs: Arrays,
        prepare: Callable[[torch.nn.Module], Any],
        mode: AbstractContextManager[Any],
        loss: Loss,
        parameters: Arrays | None = None,
        dtype: str = TRUTH,
        calls: int = 1,
    ) -> tuple[Gradients, torch.nn.Module]:
        """Run a copy of the model that `prepare` changes, forward and backward, in a mode.

        Returns:
            Output and gradients of the last of the calls, and the copy as they leave it.
        """
        held = self.parameters if parameters is None else parameters
        model = self._model(held, dtype, fresh=True)
        prepare(model)
        given, sources = self._sources(inputs, dtype)
        with torch.random.fork_rng(), torch_in(dtype, self.wide), mode:
            for _ in range(calls - 1):
                self.running.output_of(model, self._tensors(inputs, dtype))
            with differentiated():
                output = self.running.output_of(model, given)
            value = loss_of(loss, output, given)
            by_parameter, by_input = named_slopes(value, self._trained(model), sources)
        found = trees.arrays(self.output, output).items()
        outputs = {n: array_of(tensor) for n, tensor in found}
        slopes = every_slope(self.parameters, by_parameter, by_input, sources)
        return {**outputs, **beside(outputs, slopes)}, model

    def _pull(
        self,
        parameters: Arrays,
        inputs: Arrays,
        values: Arrays,
        cotangents: Arrays,
        dtype: str,
        forced: bool = True,
    ) -> tuple[dict[str, np.ndarray | None], dict[str, np.ndarray]]:
        """The gradients at parameters and inputs, and at the stages that have values.

        If stages are forced, the run continues with each stage's entry in `values`, and what the
        stage computed, times its cotangent, is added to the loss; otherwise the run continues with
        what the stage computed.
        """
        model = self._model(parameters, dtype)
        given, sources = self._sources(inputs, dtype)
        leaves = self._tensors(values, dtype)
        if not forced:
            leaves = {n: torch.zeros_like(v) for n, v in leaves.items()}
        taken = {n: v.requires_grad_() for n, v in leaves.items() if v.is_floating_point()}

        weights = self._tensors(cotangents, dtype)
        with torch_in(dtype, self.wide):
            with differentiated():
                own, output = self.running.stages_of(model, given, leaves, forced)
            value = loss_of(self.loss, output, given)
            value = value + sum(
                (own[n] * w).sum() for n, w in weights.items() if n in own and own[n].requires_grad
            )
            at = self._trained(model), sources, taken
            by_parameter, by_input, by_stage = named_slopes(value, *at)
        by_parameter |= self._zeros(by_parameter)
        return (
            every_slope(self.parameters, by_parameter, by_input, sources),
            {n: array_of(torch.zeros_like(v)) if by_stage[n] is None else by_stage[n]
             for n, v in taken.items()},
        )  # fmt: skip

    def _zeros(self, slopes: Gradients) -> dict[str, np.ndarray]:
        """Zeros for the gradients of parameters that only training mode uses."""
        unused = [n for n in self.trained_elsewhere if slopes.get(n) is None]
        return {n: np.zeros_like(self.parameters[n]) for n in unused if n in self.parameters}

    def _sources(self, inputs: Arrays, dtype: str) -> tuple[Tensors, Tensors]:
        """The inputs, and those among them that have a gradient."""
        given = self._tensors(inputs, dtype)
        sources = {n: given[n].requires_grad_() for n in differentiable(inputs)}
        copies = {n: tensor.clone() for n, tensor in sources.items()}  # may be changed in place
        return {**given, **copies}, sources

    def _trained(self, model: torch.nn.Module) -> Tensors:
        """The model's parameters in backward order."""
        every = dict(every_parameter(model))
        return {n: every[n] for n in reversed(every) if n in self.parameters}

    def _model(self, parameters: Arrays, dtype: str, fresh: bool = False) -> torch.nn.Module:
        """A copy of the module in this dtype with these parameters, used again unless `fresh`."""
        model = self._models.pop(dtype, None)
        if model is None:
            model = in_dtype(copied(self.module), dtype)
        if not fresh:
            self._models[dtype] = model
        held = {n: tensor_of(a, shared=True) for n, a in cast(parameters, dtype).items()}
        model.train(self.module.training)  # what holds merged weights must do so in its own mode
        model.load_state_dict(held, strict=False)
        return model.eval()

    def _tensors(self, arrays: Arrays, dtype: str) -> dict[str, torch.Tensor]:
        device = next((p.device for p in self.module.parameters()), torch.device("cpu"))
        return {n: tensor_of(a).to(device) for n, a in cast(arrays, dtype).items()}


def every_parameter(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """The parameters by name; tied ones by each of their names."""
    return module.named_parameters(remove_duplicate=False)
