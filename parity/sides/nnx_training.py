"""How a Flax module is trained: the two programs of one optimizer."""

from typing import Any

import jax
from flax import nnx

from flax_bilstm.conversion.tree import Path, dotted
from parity.sides.optimizers import Optimizer, moments, wide_counts
from parity.sides.programs import Program
from parity.sides.side import Arrays, Gradients, Later, Step
from parity.sides.variables import Named, Variables, flat

Trained = list[jax.Array]
"""Every variable of the optimizer and of the module, between two steps."""


class Training:
    """Trains the `nnx.Param`s of a module by `nnx.Optimizer`, as an ordinary Flax loop would.

    Args:
        variables: those of the module.
        optimizer: its optax transformation is used.
    """

    def __init__(self, variables: Variables, optimizer: Optimizer) -> None:
        self._variables, self._optimizer = variables, optimizer
        self.start = Program(self._start, simply=True)
        """Leaves → the state before the first step, which nothing has rounded."""
        self.step = Program(self._step)
        """The state and the gradients of the trained leaves → the state after a step."""
        self._leaves: dict[Path, int] = {}
        self._moments: dict[str, dict[Path, int]] = {}

    def prepare(self, leaves: Named, slopes: Named) -> None:
        """Start to compile both programs; of these arrays only shapes and dtypes matter."""
        self.step.start(self.start.start(leaves).outputs, slopes)

    def leaves(self, state: Trained) -> dict[Path, jax.Array]:
        """Every variable of the module by its path."""
        return {path: state[i] for path, i in self._leaves.items()}

    def holding(self, state: Trained, leaves: Named) -> Trained:
        """The state with these variables of the module, by their paths with dots."""
        places = {dotted(path): i for path, i in self._leaves.items()}
        held = list(state)
        for path, leaf in leaves.items():
            held[places[path]] = leaf
        return held

    def moments(self, state: Trained) -> dict[str, dict[Path, jax.Array]]:
        """The moments by their names in torch, each by the path of its parameter."""
        return {
            name: {path: state[i] for path, i in of.items()} for name, of in self._moments.items()
        }

    def left_behind(self, loss: Any, state: Trained, parameters: Arrays) -> Step:
        """The step, whose arrays are read when they are asked for: JAX still computes them.

        Args:
            loss: the loss before the step.
            state: the state after it.
            parameters: those of the side; the module may have no variable for some, which stay.
        """

        def after() -> Arrays:
            found = self._variables.named(self.leaves(state))
            return {n: parameters[n] if a is None else a for n, a in found.items()}

        def moments() -> Gradients:
            kept = {n: self._variables.named(of) for n, of in self.moments(state).items()}
            return {f"{n}.{moment}": of[n] for n in parameters for moment, of in kept.items()}

        return Step(loss, Later(after), Later(moments))

    def _start(self, leaves: Named) -> Trained:
        model = self._variables.model(leaves)
        updates = nnx.Optimizer(model, wide_counts(self._optimizer.optax), wrt=nnx.Param)
        self._graphdef, state = nnx.split((updates, model))
        held, self._structure = jax.tree.flatten(state)
        updates, model = self._merged(range(len(held)))  # the place of each in the list
        self._leaves = {p: leaf.get_raw_value() for p, leaf in flat(nnx.state(model)).items()}
        self._moments = {
            # Of no parameters, the state has no moments.
            theirs: moments(updates.opt_state, self._optimizer, ours)
            if self._variables.trained
            else {}
            for theirs, ours in self._optimizer.moments.items()
        }
        return held

    def _step(self, state: Trained, slopes: Named) -> Trained:
        updates, model = self._merged(state)
        gradient = nnx.clone(nnx.state(model, nnx.Param))
        for path, leaf in flat(gradient).items():
            leaf.set_value(slopes[dotted(path)])
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            updates.update(model, gradient)
        return jax.tree.leaves(nnx.state((updates, model)))

    def _merged(self, state: Any) -> Any:
        return nnx.merge(self._graphdef, jax.tree.unflatten(self._structure, state))
