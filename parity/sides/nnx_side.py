"""The side of any `flax.nnx.Module`."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flax_bilstm.conversion.rows import Row
from flax_bilstm.conversion.tree import dotted
from parity.sides import trees
from parity.sides.calls import POSITIONAL
from parity.sides.intercept import (
    AnyModule,
    Handler,
    Ports,
    intercepted_nnx,
    nnx_submodules,
    placed,
)  # fmt: skip
from parity.sides.losses import MEAN_SQUARED_ERROR, Loss
from parity.sides.nnx_training import Trained, Training
from parity.sides.optimizers import Optimizer
from parity.sides.programs import Program
from parity.sides.recurrent import flax_ports
from parity.sides.side import (
    Arrays,
    Gradients,
    Later,
    Side,
    Step,
    cast,
    differentiable,
    without_target,
)  # fmt: skip
from parity.sides.substitutes import substituting
from parity.sides.variables import Named, Variables, flat
from parity.tolerances import TRUTH

Call = Callable[[Any, Mapping[str, Any]], Any]
"""(model, inputs by name) → the model's output."""


class NnxSide(Side):
    """Runs copies of a module, compiled, in evaluation mode.

    It trains, and has gradients for, what an ordinary Flax loop would train: the `nnx.Param`s, by
    `nnx.Optimizer(model, tx, wrt=nnx.Param)`.

    Args:
        module: the module; it is never changed.
        rows: each tensor of the reference is in one of them; all names come from here.
        call: how to call the module; JAX traces it.
        loss: the loss of the gradients and of training.
        stages: path in the reference → path in this module, of the submodules to intercept.
        recurrent: the submodules among them that are LSTMs or LSTM cells on both sides.
        chosen: the stages to collect; None for all of these submodules, () for none.
        output: the name of the output.
        name: the name of this side in reports.

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
        stages: Mapping[str, str] | None = None,
        recurrent: Iterable[str] = (),
        chosen: frozenset[str] | None = None,
        output: str = "output",
        name: str = "flax",
    ) -> None:
        self._variables = Variables(module, rows)
        self.call, self.loss, self.output = call, loss, output
        self.stages, self.recurrent = dict(stages or {}), tuple(recurrent)
        self.chosen = chosen
        self.hidden: set[str] = set()
        self._values = Program(self._run_values)
        self._slopes = Program(partial(self._run_slopes, None))
        self._trained_slopes = Program(self._run_trained)
        self.start_training: Callable[[nnx.Module], None] | None = None
        """Puts a copy in training mode before it is trained; None keeps evaluation mode."""
        self._trainings: dict[Any, Training] = {}
        self._known_shapes: dict[Any, Any] = {}
        super().__init__(name, self._variables.parameters())

    def shapes(self, parameters: Arrays, inputs: Arrays, dtype: str) -> dict[str, Any]:
        """The shape and dtype of every stage, without running anything."""
        with _precision(dtype):
            return self._shapes(self._variables.leaves(parameters, dtype), inputs, dtype)

    def called(self, paths: Iterable[str], inputs: Arrays) -> list[str]:
        """These submodules' paths in the order of their calls, once for every call.

        Calls of copies that a transformation such as `nnx.scan` makes are not counted.
        """
        calls: list[str] = []

        def noting(path: str) -> Handler:
            def handle(call: Any, args: tuple, kwargs: dict) -> Any:
                calls.append(path)
                return call(*args, **kwargs)

            return handle

        def run(leaves: Named, inputs: Named) -> None:
            model = self._variables.model(leaves)
            with intercepted_nnx({path: noting(path) for path in paths}, nnx_submodules(model)):
                self.call(model, inputs)

        with suppress(Exception), _precision(TRUTH):  # the check raises it again
            leaves = self._variables.leaves(self.parameters, TRUTH)
            jax.eval_shape(run, leaves, cast(without_target(inputs), TRUTH))
        return calls

    def prepare(self, inputs: Arrays, dtype: str, optimizers: Sequence[Optimizer] = ()) -> None:
        """See `Side`."""
        config: Any = jax.config
        if config.jax_disable_jit:
            return
        with suppress(Exception), _precision(dtype):  # the run itself raises it again
            leaves, read = self._variables.leaves(self.parameters, dtype), without_target(inputs)
            given = self._given(leaves, inputs, {}, dtype)
            self._values.start(leaves, cast(read, dtype), given, np.asarray(False))
            started = self._differentiate(leaves, inputs, {}, {}, dtype, self._slopes.start)
            _, (slopes, _), _ = started.outputs
            for optimizer in optimizers:
                self._training(optimizer, dtype).prepare(leaves, slopes)

    def forward(self, parameters: Arrays, inputs: Arrays, dtype: str) -> Arrays:
        """See `Side`."""
        return self.local(parameters, inputs, {}, dtype)

    def local(self, parameters: Arrays, inputs: Arrays, values: Arrays, dtype: str) -> Arrays:
        """See `Side`."""
        with _precision(dtype):
            leaves = self._variables.leaves(parameters, dtype)
            given = self._given(leaves, inputs, values, dtype)
            read = _copies(without_target(inputs), dtype)
            found = self._values(leaves, read, given, np.asarray(bool(values)))
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
        with _precision(dtype):
            state = training.start(self._variables.leaves(parameters, dtype))
        for batch in batches:
            # Not around the yield: code that runs between two steps sets its precision itself.
            with _precision(dtype):
                leaves = {dotted(path): leaf for path, leaf in training.leaves(state).items()}
                run = self._slopes if self.start_training is None else self._trained_slopes
                (value, statistics), (slopes, _), _ = self._differentiate(
                    leaves, batch, {}, {}, dtype, run
                )
                state = training.step(training.holding(state, statistics), slopes)
                del leaves, slopes  # frees memory while other sides make their step
                left = self._left_behind(value, training, state)
            yield left
            del left

    def update(
        self, parameters: Arrays, gradients: Sequence[Gradients], optimizer: Optimizer, dtype: str
    ) -> Iterator[Step]:
        """See `Side`."""
        training = self._training(optimizer, dtype)
        with _precision(dtype):
            leaves = self._variables.leaves(parameters, dtype)
            state = training.start(leaves)
        for given in gradients:
            with _precision(dtype):
                state = training.step(state, self._variables.slopes(given, leaves))
                left = self._left_behind(np.zeros(()), training, state)
            yield left

    def _training(self, optimizer: Optimizer, dtype: str) -> Training:
        key = optimizer.optax, dtype
        if key not in self._trainings:
            self._trainings[key] = Training(self._variables.model, optimizer)
        return self._trainings[key]

    def _left_behind(self, value: Any, training: Training, state: Trained) -> Step:
        """The step, whose arrays are read when they are asked for: JAX still computes them."""

        def parameters() -> Arrays:
            found = self._variables.named(training.leaves(state))
            return {n: self.parameters[n] if a is None else a for n, a in found.items()}

        def moments() -> Gradients:
            kept = {n: self._variables.named(of) for n, of in training.moments(state).items()}
            return {f"{n}.{moment}": of[n] for n in self.parameters for moment, of in kept.items()}

        return Step(value, Later(parameters), Later(moments))

    def _pull(
        self, parameters: Arrays, inputs: Arrays, values: Arrays, cotangents: Arrays, dtype: str
    ) -> tuple[dict[str, np.ndarray | None], dict[str, np.ndarray]]:
        """The gradients at parameters and inputs, and at the stages: see `TorchSide`."""
        with _precision(dtype):
            leaves = self._variables.leaves(parameters, dtype)
            _, (by_leaf, by_input), by_stage = self._differentiate(
                leaves, inputs, values, cotangents, dtype
            )
            by_parameter = self._variables.named(
                {p: by_leaf[dotted(p)] for p in self._variables.found if dotted(p) in by_leaf}
            )
            backward = dict(reversed(by_parameter.items()))
            return (
                {**backward, **{n: np.asarray(g) for n, g in by_input.items()}},
                {n: np.asarray(g) for n, g in by_stage.items()},
            )

    def _differentiate(
        self, leaves: Named, inputs: Arrays, values: Arrays, cotangents: Arrays, dtype: str,
        run: Callable[..., Any] | None = None,
    ) -> Any:  # fmt: skip
        """The loss, and statistics; gradients at trained leaves and inputs, and at the stages."""
        trained = self._variables.trained
        rest = _copies(inputs, dtype)
        sources = {n: rest.pop(n) for n in differentiable(inputs)}
        given = self._given(leaves, inputs, values, dtype)
        weights = {n: np.zeros(v.shape, v.dtype) for n, v in given.items()}
        weights.update({n: v for n, v in cast(cotangents, dtype).items() if n in weights})
        return (run or self._slopes)(
            {n: leaf for n, leaf in leaves.items() if n in trained},
            {n: leaf for n, leaf in leaves.items() if n not in trained},
            sources, rest, given, np.asarray(bool(values)), weights,
        )  # fmt: skip

    def _run_values(self, leaves: Named, inputs: Named, given: Named, forced: Any) -> Any:
        own, _ = self._run(self._variables.model(leaves), inputs, given, forced)
        return OrderedDict(own)  # jit sorts the keys of a dict but not of an OrderedDict

    def _run_trained(self, *given: Any) -> Any:
        return self._run_slopes(self.start_training, *given)

    def _run_slopes(
        self, start: Callable[[nnx.Module], None] | None, trained: Named, fixed: Named,
        sources: Named, rest: Named, given: Named, forced: Any, weights: Named,
    ) -> Any:  # fmt: skip
        def total(trained: Named, sources: Named, given: Named) -> tuple[Any, Any]:
            inputs = {**rest, **sources}
            model = self._variables.model({**fixed, **trained})
            if start is not None:
                start(model)
            own, output = self._run(model, inputs, {**whole, **given}, forced)
            with placed("loss"):
                value = self.loss.jax(output, inputs)
            both = value
            for name, weight in weights.items():
                if name in own and jnp.issubdtype(own[name].dtype, jnp.floating):
                    both = both + jnp.vdot(own[name], weight).astype(value.dtype)
            left = {dotted(p): leaf[...] for p, leaf in flat(nnx.state(model)).items()}
            return both, (value, {n: left[n] for n in fixed if start is not None})

        smooth = {n: v for n, v in given.items() if jnp.issubdtype(v.dtype, jnp.floating)}
        whole = {n: v for n, v in given.items() if n not in smooth}
        slopes, value = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(trained, sources, smooth)
        by_stage = OrderedDict((n, slopes[2][n]) for n in smooth)
        return value, slopes[:2], by_stage

    def _run(
        self, model: nnx.Module, inputs: Named, given: Named, forced: Any
    ) -> tuple[Named, Any]:
        """The values that the run computed, by stage, and the output for the loss."""
        modules = nnx_submodules(model)
        ports = {path: self._ports(path, modules[own]) for path, own in self.stages.items()}
        taps = substituting(given, forced, self.chosen)
        handlers = {own: taps.handler(p or "lstm", ports[p]) for p, own in self.stages.items()}
        with intercepted_nnx(handlers, modules):
            output = self.call(model, inputs)
        self.hidden |= taps.hidden
        outputs = substituting(given, forced, None)
        output = trees.mapped(self.output, output, outputs.keep, strict=True)
        return {**taps.own, **outputs.own}, output

    def _ports(self, path: str, module: Any) -> Ports:
        return flax_ports(module) if path in self.recurrent else AnyModule()

    def _given(self, leaves: Named, inputs: Arrays, values: Arrays, dtype: str) -> Arrays:
        """The substitute for each stage: its entry in `values`, or zeros; none if shapes differ."""
        key = (dtype, *((n, array.shape) for n, array in without_target(inputs).items()))
        if key not in self._known_shapes:
            self._known_shapes[key] = self._shapes(leaves, inputs, dtype)
        shapes = self._known_shapes[key].items()
        if not values:
            return {n: np.zeros(s.shape, s.dtype) for n, s in shapes}
        return {
            n: np.asarray(values[n], s.dtype)
            for n, s in shapes
            if n in values and values[n].shape == s.shape
        }

    def _shapes(self, leaves: Named, inputs: Arrays, dtype: str) -> dict[str, Any]:
        read = cast(without_target(inputs), dtype)
        return jax.eval_shape(self._run_values, leaves, read, {}, np.zeros((), bool))


def _copies(inputs: Arrays, dtype: str) -> dict[str, np.ndarray]:
    """The inputs in the dtype. JAX remembers what it made of the caller's arrays without x64."""
    return {name: array.copy() for name, array in cast(inputs, dtype).items()}


def _precision(dtype: str) -> Any:
    """x64 on for float64, which needs it; off for other dtypes, as JAX's users run it."""
    return jax.enable_x64(dtype == "float64")
