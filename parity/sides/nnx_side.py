"""The side of any `flax.nnx.Module`."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

import jax
import numpy as np
from flax import nnx

from flax_bilstm.conversion.rows import Row
from flax_bilstm.conversion.tree import dotted
from parity.sides.calls import POSITIONAL, Call
from parity.sides.drawn_keys import drawn_keys
from parity.sides.flax_masks import Drawn, fixed_flax
from parity.sides.in_float64 import flax_in, widens
from parity.sides.losses import MEAN_SQUARED_ERROR, SQUARES, Loss
from parity.sides.nnx_running import Running, Slopes
from parity.sides.nnx_training import Training
from parity.sides.optimizers import Optimizer
from parity.sides.side import AFTER, Arrays, Gradients, Side, Step, beside
from parity.sides.variables import Variables
from parity.tolerances import TRUTH


class NnxSide(Side):
    """Runs copies of a module, compiled, in evaluation mode.

    It trains, and has gradients for, what an ordinary Flax loop would train: the `nnx.Param`s, by
    `nnx.Optimizer(model, tx, wrt=nnx.Param)`.

    Args:
        module: the module; it is never changed.
        rows: each tensor of the reference is in one of them; all names come from here.
        call: how to call the module; JAX traces it.
        loss: the loss of the gradients and of training.
        training_call: how to call it in training mode; None for the same call.
        stages: path in the reference → path in this module, of the submodules to intercept.
        with_ports: the submodules among them that are a pair of `parity.sides.ports`.
        chosen: the stages to collect; None for all of these submodules, () for none.
        output: the name of the output.
        name: the name of this side in reports.
        theirs: the reference's parameters, for variables that hold a rounded form of them.

    Raises:
        ValueError: a row's path has no leaf, or converting a leaf there and back changes it.
    """

    opens = True

    def __init__(
        self,
        module: nnx.Module,
        rows: Sequence[Row],
        call: Call = POSITIONAL,
        loss: Loss = MEAN_SQUARED_ERROR,
        *,
        training_call: Call | None = None,
        stages: Mapping[str, str] | None = None,
        with_ports: Iterable[str] = (),
        chosen: frozenset[str] | None = None,
        output: str = "output",
        name: str = "flax",
        theirs: Arrays | None = None,
    ) -> None:
        self._variables = Variables(module, rows)
        self.running = Running(
            self._variables, (call, training_call or call), loss, stages or {}, with_ports, chosen,
            output,
        )  # fmt: skip
        """Shared with the sides that `holding` returns, so that nothing is compiled again."""
        self.output = output
        self.rows = self._variables.rows
        self.absent = self._variables.absent
        """The parameters that the module has no variable for, such as a count of batches."""
        paired = {path for row in self.rows for path in row.paths}
        self.unpaired = [n for n in map(dotted, self._variables.found.keys() - paired)
                         if n in self._variables.trained]  # fmt: skip
        """The paths of trained variables that are no parameter of the reference's."""
        self._trainings: dict[Any, Training] = {}
        rounded = self._variables.rounded(theirs or {})
        super().__init__(name, {**self._variables.parameters(), **rounded})
        self.wide = widens(self.parameters)

    def shapes(self, parameters: Arrays, inputs: Arrays, dtype: str) -> dict[str, Any]:
        """The shape and dtype of every stage, without running anything."""
        with flax_in(dtype, self.wide):
            return self.running.shapes(self._variables.leaves(parameters, dtype), inputs, dtype)

    def without_slope(self, names: Iterable[str], inputs: Arrays) -> list[str]:
        """Those of these parameters at which the output has a gradient of 0; none if it raises."""
        squares = copy.copy(self.running)
        squares.loss = SQUARES
        side = copy.copy(self)
        side.running = squares.choosing(frozenset())
        with suppress(Exception):  # the check raises the same error
            slopes = side.gradients(self.parameters, inputs, TRUTH)
            return [name for name in names if not np.any(slopes.get(name, 1))]
        return []

    def moved_in_training(self, inputs: Arrays) -> dict[str, bool]:
        """What a call in training mode changes; whether in a variable. Nothing if it raises."""
        with suppress(Exception), flax_in(TRUTH, self.wide):  # the check raises the same error
            leaves = self._variables.leaves(self.parameters, TRUTH)
            return self.running.moved_in_training(leaves, inputs, TRUTH)
        return {}

    def in_training(self, by: str, parameters: Arrays, inputs: Arrays, dtype: str) -> Gradients:
        """See `Side`."""
        with flax_in(dtype, self.wide), fixed_flax(by):
            leaves = self._variables.leaves(parameters, dtype)
            found = self.running.in_training(leaves, inputs, dtype)
            outputs = {n: np.asarray(value) for n, value in found.outputs.items()}
            held = {p: {**leaves, **found.changed}[dotted(p)] for p in self._variables.found}
            kept = self._variables.named(held)
            left = {n: parameters[n] if a is None else a for n, a in kept.items()}
            after = {f"{n}{AFTER}": array for n, array in left.items()}
            return {**outputs, **beside(outputs, {**self._slopes(found), **after})}

    def drawn_keys(self, parameters: Arrays, inputs: Arrays, dtype: str) -> list[list[Drawn]]:
        """See `Side`."""
        with flax_in(dtype, self.wide):
            leaves = self._variables.leaves(parameters, dtype)
            return drawn_keys(self.running, leaves, inputs, dtype)

    def prepare(self, inputs: Arrays, dtype: str, optimizers: Sequence[Optimizer] = ()) -> None:
        """See `Side`."""
        config: Any = jax.config
        if config.jax_disable_jit:
            return
        with suppress(Exception), flax_in(dtype, self.wide):  # the run itself raises it again
            leaves = self._variables.leaves(self.parameters, dtype)
            training = bool(optimizers)
            slopes = self.running.prepare(leaves, inputs, dtype, training=training).leaves
            for optimizer in optimizers:
                self._training(optimizer, dtype).prepare(leaves, slopes)

    def choosing(self, stages: frozenset[str]) -> Self:
        """The same side that collects only these stages, whose programs are compiled again."""
        other = copy.copy(self)
        other.running = self.running.choosing(stages)
        return other

    def forward(self, parameters: Arrays, inputs: Arrays, dtype: str) -> Arrays:
        """See `Side`."""
        return self.local(parameters, inputs, {}, dtype)

    def local(self, parameters: Arrays, inputs: Arrays, values: Arrays, dtype: str) -> Arrays:
        """See `Side`."""
        with flax_in(dtype, self.wide):
            leaves = self._variables.leaves(parameters, dtype)
            found = self.running.values(leaves, inputs, values, dtype)
            return {n: np.asarray(value) for n, value in found.items()}

    def gradients(self, parameters: Arrays, inputs: Arrays, dtype: str) -> Gradients:
        """See `Side`."""
        return self._pull(parameters, inputs, {}, {}, dtype)[0]

    def cotangents(self, parameters: Arrays, inputs: Arrays, dtype: str) -> Arrays:
        """See `Side`."""
        return self._pull(parameters, inputs, {}, {}, dtype)[1]

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
        training = self._training(optimizer, dtype)
        with flax_in(dtype, self.wide):
            state = training.start(self._variables.leaves(parameters, dtype))
        for batch in batches:
            # Not around the yield: code that runs between two steps sets its precision itself.
            with flax_in(dtype, self.wide):
                leaves = {dotted(path): leaf for path, leaf in training.leaves(state).items()}
                found = self.running.slopes(leaves, batch, {}, {}, dtype, training=True)
                state = training.step(training.holding(state, found.changed), found.leaves)
                left = training.left_behind(found.loss, state, self.parameters)
                del leaves, found  # frees memory while other sides make their step
            yield left
            del left

    def update(
        self, parameters: Arrays, gradients: Sequence[Gradients], optimizer: Optimizer, dtype: str
    ) -> Iterator[Step]:
        """See `Side`."""
        training = self._training(optimizer, dtype)
        with flax_in(dtype, self.wide):
            leaves = self._variables.leaves(parameters, dtype)
            state = training.start(leaves)
        for given in gradients:
            with flax_in(dtype, self.wide):
                state = training.step(state, self._variables.slopes(given, leaves))
                left = training.left_behind(np.zeros(()), state, self.parameters)
            yield left

    def _training(self, optimizer: Optimizer, dtype: str) -> Training:
        key = optimizer.optax, dtype
        if key not in self._trainings:
            self._trainings[key] = Training(self._variables, optimizer)
        return self._trainings[key]

    def _pull(
        self, parameters: Arrays, inputs: Arrays, values: Arrays, cotangents: Arrays, dtype: str
    ) -> tuple[dict[str, np.ndarray | None], dict[str, np.ndarray]]:
        """The gradients at parameters and inputs, and at the stages: see `TorchSide`."""
        with flax_in(dtype, self.wide):
            leaves = self._variables.leaves(parameters, dtype)
            found = self.running.slopes(leaves, inputs, values, cotangents, dtype)
            return self._slopes(found), {n: np.asarray(g) for n, g in found.stages.items()}

    def _slopes(self, found: Slopes) -> dict[str, np.ndarray | None]:
        """The gradients at parameters, in backward order, and at inputs."""
        by_leaf = found.leaves
        by_parameter = self._variables.named(
            {p: by_leaf[dotted(p)] for p in self._variables.found if dotted(p) in by_leaf}
        )
        by_input = {n: np.asarray(g) for n, g in found.inputs.items()}
        backward = dict(reversed(by_parameter.items()))
        return {**backward, **beside(self.parameters, by_input)}
