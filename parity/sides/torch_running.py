"""How a PyTorch module is run: as it is, or with its stages collected and replaced."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from parity.sides import trees
from parity.sides.calls import Call
from parity.sides.intercept import AnyModule, Ports, Taps, intercepted_torch, torch_submodules
from parity.sides.one_by_one import run_each
from parity.sides.ports import torch_ports
from parity.sides.torch_arrays import Tensors


@dataclass(frozen=True)
class Running:
    """Runs a module. See `parity.sides.torch_side.TorchSide` for the attributes."""

    call: Call
    training_call: Call
    stages: tuple[str, ...]
    with_ports: tuple[str, ...]
    chosen: frozenset[str] | None
    alone: bool
    output: str

    def stages_of(
        self, model: torch.nn.Module, inputs: Tensors, leaves: Tensors, forced: bool = True
    ) -> tuple[dict[str, torch.Tensor], Any]:
        """The values that the run computed, by stage, and the output for the loss.

        Args:
            model: the module.
            inputs: those of the module, and of the loss.
            leaves: what the run continues with after each stage if they are forced; else what is
                added there.
            forced: whether they are.
        """

        def put(value: torch.Tensor, leaf: torch.Tensor | None) -> torch.Tensor:
            if leaf is None or leaf.shape != value.shape:
                return value
            if forced:
                return leaf.clone()  # the model may change it in place
            return value + leaf if value.is_floating_point() else value

        if self.alone and "lengths" in inputs:
            return run_each(partial(self._run_once, model), inputs, leaves, put)
        return self._run_once(model, inputs, lambda name, value: put(value, leaves.get(name)))

    def output_of(self, model: torch.nn.Module, inputs: Tensors) -> Any:
        """The output, without the stages, in the mode that the module is in."""
        if self.alone and "lengths" in inputs:
            return self.stages_of(model, inputs, {})[1]
        return (self.training_call if model.training else self.call)(model, inputs)

    def _run_once(
        self, model: torch.nn.Module, inputs: Tensors, substitute: trees.Change
    ) -> tuple[dict[str, torch.Tensor], Any]:
        taps = Taps(substitute, self.chosen, here=_outside_of_vmap, copied=torch.clone)
        modules = torch_submodules(model)
        handlers = {
            path: taps.handler(path or "lstm", self._ports(path, modules)) for path in self.stages
        }
        with intercepted_torch(handlers, modules):
            output = self.call(model, inputs)
        outputs = Taps(substitute, copied=torch.clone)
        output = trees.mapped(self.output, output, trees.once(outputs.keep), strict=True)
        return {**taps.own, **outputs.own}, output

    def _ports(self, path: str, modules: Mapping[str, Any]) -> Ports:
        return torch_ports(modules[path]) if path in self.with_ports else AnyModule()


def _outside_of_vmap() -> bool:
    """Whether values exist that are not only those of `torch.func`'s transformations."""
    return torch._C._functorch.maybe_current_level() is None
