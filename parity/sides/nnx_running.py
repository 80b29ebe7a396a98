"""How a Flax module is run and differentiated: the programs of one side."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flax_bilstm.conversion.tree import dotted
from parity.sides import changes, trees
from parity.sides.calls import Call
from parity.sides.fixed_masks import POSITIONS
from parity.sides.flax_masks import fixed_flax
from parity.sides.intercept import AnyModule, Ports, intercepted_nnx, nnx_submodules, placed
from parity.sides.losses import Loss
from parity.sides.ports import flax_ports
from parity.sides.programs import Program
from parity.sides.side import Arrays, cast, differentiable, floating, without_target
from parity.sides.substitutes import substituting
from parity.sides.variables import Named, Variables, flat

Start = Callable[[nnx.Module], None]
"""Changes a module before it is run."""


class Slopes(NamedTuple):
    """What differentiating a run gives.

    Attributes:
        loss: the loss, a scalar.
        outputs: the outputs by name, if they are asked for; else empty.
        changed: the variables that the run has changed, in whatever way.
        leaves: the gradients at trained leaves.
        inputs: those at floating inputs.
        stages: those at floating stages, in order of computation.
    """

    loss: Any
    outputs: Named
    changed: Named
    leaves: Named
    inputs: Named
    stages: Named


class Running:
    """Runs copies of a module, compiled, in evaluation mode.

    Float64 needs `jax.enable_x64`, which is the caller's. See `NnxSide` for the arguments, which
    may be changed until the first run.

    Attributes:
        training_call: how the module is called in training mode.
        start_training: puts a copy in training mode before it is trained; None keeps evaluation
            mode.
        hidden: paths of the submodules whose calls could not be intercepted.
        moved: paths of the variables and attributes that a call changes, which later calls may
            read.
    """

    def __init__(
        self,
        variables: Variables,
        calls: tuple[Call, Call],
        loss: Loss,
        stages: Mapping[str, str],
        with_ports: Iterable[str],
        chosen: frozenset[str] | None,
        output: str,
    ) -> None:
        self.variables, self.loss, self.output = variables, loss, output
        self.call, self.training_call = calls
        self.stages, self.with_ports, self.chosen = dict(stages), tuple(with_ports), chosen
        self.start_training: Start | None = None
        self.hidden: set[str] = set()
        self.moved: set[str] = set()
        self._begin()

    def _begin(self) -> None:
        """Forget what is compiled."""
        self._values = Program(self._traced_values)
        self._slopes = Program(partial(self._traced_slopes, None))
        self._trained_slopes = Program(
            lambda *given: self._traced_slopes(self.start_training, *given)
        )
        self._known_shapes: dict[Any, Any] = {}

    def choosing(self, stages: frozenset[str]) -> "Running":
        """The same with other stages to collect."""
        other = copy.copy(self)
        other.chosen = stages
        other._begin()
        return other

    def shapes(self, leaves: Named, inputs: Arrays, dtype: str) -> dict[str, Any]:
        """The shape and dtype of every stage, without running anything."""
        read = cast(without_target(inputs), dtype)
        arguments: tuple = leaves, read, {}, np.zeros((), bool)
        found = jax.eval_shape(self._traced_values, *arguments)
        if self.moved:  # or given back as another value by a transformation
            hidden, self.moved = set(self.hidden), set()
            self._traced_values(*jax.tree.map(jnp.asarray, arguments))  # not to write in NumPy's
            self.hidden = hidden
        return found

    def moved_in_training(self, leaves: Named, inputs: Arrays, dtype: str) -> dict[str, bool]:
        """What a call in training mode changes, without running anything; whether in a variable."""
        found: dict[str, bool] = {}

        def trace(leaves: Named, read: Named) -> None:
            model = self.variables.model(leaves)
            put_in_training(model)
            before = changes.everything(model)
            with fixed_flax(POSITIONS):
                self.training_call(model, read)
            moved = changes.between(before, changes.everything(model))
            found.update({name: name in leaves for name in moved})

        jax.eval_shape(trace, leaves, cast(without_target(inputs), dtype))
        return found

    def in_training(self, leaves: Named, inputs: Arrays, dtype: str) -> Slopes:
        """Output and gradients in training mode, with Dropout."""
        # Traced each time: what replaces a Dropout is no part of the module.
        traced = partial(self._traced_slopes, put_in_training, returned=True)
        program = Program(traced, simply=True)
        return program(*self._of_slopes(leaves, inputs, {}, {}, dtype))

    def prepare(self, leaves: Named, inputs: Arrays, dtype: str, *, training: bool) -> Slopes:
        """Start to compile all programs that will run; the shapes and dtypes of the slopes."""
        self._values.start(*self._of_values(leaves, inputs, {}, dtype))
        given = self._of_slopes(leaves, inputs, {}, {}, dtype)
        self._program(training).start(*given)
        return self._slopes.start(*given).outputs

    def values(self, leaves: Named, inputs: Arrays, values: Arrays, dtype: str) -> Named:
        """Every stage, computed from the `values` of the stages before it, if there are any."""
        return self._values(*self._of_values(leaves, inputs, values, dtype))

    def slopes(
        self, leaves: Named, inputs: Arrays, values: Arrays, cotangents: Arrays, dtype: str,
        *, training: bool = False,
    ) -> Slopes:  # fmt: skip
        """The loss and its gradients; what a stage computed, times its cotangent, is added to it.

        Args:
            leaves: every variable of the module.
            inputs: the inputs of the module and of the loss.
            values: what the run continues with after each stage; empty for what it computed.
            cotangents: by stage.
            dtype: the dtype to compute in.
            training: whether the module is put in training mode, if `start_training` can do that.
        """
        given = self._of_slopes(leaves, inputs, values, cotangents, dtype)
        return self._program(training)(*given)

    def _program(self, training: bool) -> Program:
        return self._trained_slopes if training and self.start_training else self._slopes

    def _of_values(self, leaves: Named, inputs: Arrays, values: Arrays, dtype: str) -> tuple:
        """The arguments of `_traced_values`."""
        given = self._given(leaves, inputs, values, dtype)
        return leaves, copies(without_target(inputs), dtype), given, np.asarray(bool(values))

    def _of_slopes(
        self, leaves: Named, inputs: Arrays, values: Arrays, cotangents: Arrays, dtype: str
    ) -> tuple:
        """The arguments of `_traced_slopes`."""
        trained = self.variables.trained
        rest = copies(inputs, dtype)
        sources = {n: rest.pop(n) for n in differentiable(inputs)}
        given = self._given(leaves, inputs, values, dtype)
        weights = {n: np.zeros(v.shape, v.dtype) for n, v in given.items()}
        weights.update({n: v for n, v in cast(cotangents, dtype).items() if n in weights})
        return (
            {n: leaf for n, leaf in leaves.items() if n in trained},
            {n: leaf for n, leaf in leaves.items() if n not in trained},
            sources, rest, given, np.asarray(bool(values)), weights,
        )  # fmt: skip

    def _given(self, leaves: Named, inputs: Arrays, values: Arrays, dtype: str) -> Arrays:
        """The substitute for each stage: its entry in `values`, or zeros; none if shapes differ."""
        key = (dtype, *((n, array.shape) for n, array in without_target(inputs).items()))
        if key not in self._known_shapes:
            self._known_shapes[key] = self.shapes(leaves, inputs, dtype)
        shapes = self._known_shapes[key].items()
        if not values:
            return {n: np.zeros(s.shape, s.dtype) for n, s in shapes}
        with np.errstate(over="ignore"):  # a mask may have the smallest number of another dtype
            return {
                n: np.asarray(values[n], s.dtype)
                for n, s in shapes
                if n in values
                and values[n].shape == s.shape
                and np.iscomplexobj(values[n]) == jnp.issubdtype(s.dtype, jnp.complexfloating)
            }

    def _traced_values(self, leaves: Named, inputs: Named, given: Named, forced: Any) -> Named:
        model = self.variables.model(leaves)
        before = changes.everything(model)
        own, _ = self._run(self.call, model, inputs, given, forced)
        # A layer may count what it draws for nothing, such as nnx.RNN for states of 0.
        counts = {dotted(path) for path in flat(nnx.state(model, nnx.RngCount))}
        self.moved |= changes.between(before, changes.everything(model)).keys() - counts
        return OrderedDict(own)  # jit sorts the keys of a dict but not of an OrderedDict

    def _traced_slopes(
        self, start: Start | None, trained: Named, fixed: Named, sources: Named, rest: Named,
        given: Named, forced: Any, weights: Named, returned: bool = False,
    ) -> Slopes:  # fmt: skip
        call = self.training_call if start else self.call

        def total(trained: Named, sources: Named, smooth: Named) -> tuple[Any, Any]:
            inputs = {**rest, **sources}
            model = self.variables.model({**fixed, **trained})
            before = changes.variables(model)
            if start:
                start(model)
            own, output = self._run(call, model, inputs, {**given, **smooth}, forced)
            with placed("loss"):
                value = self.loss.jax(output, inputs)
                if jnp.shape(value) or not floating(jnp.asarray(value)):
                    kind = f"{jnp.asarray(value).dtype}{list(jnp.shape(value))}"
                    raise ValueError(f"loss: expected a floating scalar in JAX, got {kind}")
            both = value
            for name, weight in weights.items():
                if name in own and floating(own[name]):
                    both = both + jnp.vdot(own[name], weight).astype(value.dtype)
            changed = changes.between(before, changes.variables(model))
            outputs = OrderedDict(trees.arrays(self.output, output)) if returned else {}
            return both, (value, outputs, changed)

        smooth = {n: v for n, v in given.items() if floating(v)}
        slopes, (value, outputs, changed) = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(
            trained, sources, smooth
        )
        by_leaf, by_input, by_stage = slopes
        return Slopes(
            value, outputs, changed, by_leaf, by_input,
            OrderedDict((n, by_stage[n]) for n in smooth),
        )  # fmt: skip

    def _run(
        self, call: Call, model: nnx.Module, inputs: Named, given: Named, forced: Any
    ) -> tuple[Named, Any]:
        """The values that the run computed, by stage, and the output for the loss."""
        modules = nnx_submodules(model)
        taps = substituting(given, forced, self.chosen)
        handlers = {
            own: taps.handler(path or "lstm", self._ports(path, modules[own]))
            for path, own in self.stages.items()
        }
        with intercepted_nnx(handlers, modules):
            output = call(model, inputs)
        self.hidden |= taps.hidden
        outputs = substituting(given, forced, None)
        output = trees.mapped(self.output, output, trees.once(outputs.keep), strict=True)
        return {**taps.own, **outputs.own}, output

    def _ports(self, path: str, module: Any) -> Ports:
        return flax_ports(module) if path in self.with_ports else AnyModule()


def put_in_training(model: nnx.Module) -> None:
    """Put the model in training mode, in which its layers draw masks.

    By default `nnx.BatchNorm` subtracts the squared mean from the mean square there, which loses
    digits where the mean is far from 0; it is run without.
    """
    model.train()
    for module in nnx_submodules(model).values():
        if isinstance(module, nnx.BatchNorm):
            module.use_fast_variance = False


def copies(inputs: Arrays, dtype: str) -> dict[str, np.ndarray]:
    """The inputs in the dtype. JAX remembers what it made of the caller's arrays without x64."""
    return {name: array.copy() for name, array in cast(inputs, dtype).items()}
