"""A network of the self-test: a PyTorch module, its right port, and the inputs of both."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from flax import nnx
from torch.nn import Module

import flax_bilstm as fb
from parity.sides import pair
from parity.sides.losses import MEAN_SQUARED_ERROR, Loss
from parity.sides.side import TARGET

SEED = 0

Batch = dict[str, np.ndarray]
Draw = Callable[[np.random.Generator], Batch]


@dataclass(frozen=True)
class Network:
    """A network and its port.

    Attributes:
        torch: makes the reference.
        flax: makes the port from rngs; or, if `function`, is a function of the reference's state
            dict and the inputs.
        draw: draws the inputs of both, by name, and the loss's target.
        names: Flax path → torch path, where the names differ.
        fresh: whether the statistics of its norms are 0 and 1, as if never updated.
        function: whether `flax` is the candidate itself.
    """

    torch: Callable[[], Module]
    flax: Callable[..., Any]
    draw: Draw
    names: Mapping[str, Any] = field(default_factory=dict)
    function: bool = False
    fresh: bool = False

    def reference(self) -> Module:
        """The reference with the same numbers in every run; none of them is a default of a norm."""
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            model = self.torch().eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.unique().numel() == 1:
                        parameter.add_(torch.empty_like(parameter).uniform_(-0.5, 0.5))
            for name, buffer in () if self.fresh else model.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_()
                if name.endswith("running_var"):
                    buffer.uniform_(0.5, 2)
        return model

    def pair(self, model: Module, batch: Batch, loss: Loss = MEAN_SQUARED_ERROR) -> pair.ModulePair:
        """The reference and the port with the reference's parameters."""
        candidate = self.flax
        if not self.function:
            candidate = self.flax(nnx.Rngs(SEED))
            fb.load_state_dict(candidate, model.state_dict(), names=self.names)
        inputs = {name: array for name, array in batch.items() if name != TARGET}
        return pair.of_modules(model, candidate, inputs, names=self.names, loss=loss)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Standard normal numbers in float32."""
    return rng.standard_normal(shape, dtype=np.float32)


def signal(x: tuple[int, ...], target: tuple[int, ...]) -> Draw:
    """Draws normal numbers of these shapes."""
    return lambda rng: {"x": normal(rng, *x), TARGET: normal(rng, *target)}


def tokens(vocabulary: int, x: tuple[int, ...], target: tuple[int, ...]) -> Draw:
    """Draws tokens below `vocabulary`, and a target."""
    return lambda rng: {"x": rng.integers(0, vocabulary, x), TARGET: normal(rng, *target)}
