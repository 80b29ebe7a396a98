"""The functions of a side for any `flax.nnx.Module`."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from parity.losses import Loss
from parity.optimizers import Optimizer
from parity.port import TARGET, Arrays, Gradients, Side, Step, cast, differentiable

Stages = Callable[[Any, Mapping[str, jax.Array]], Mapping[str, jax.Array]]
"""(module, inputs) → every stage by name in order of computation, the last one the output."""

Local = Callable[[Any, Mapping[str, jax.Array], Mapping[str, jax.Array]], Mapping[str, jax.Array]]
"""(module, inputs, given) → the same stages, each computed from the given ones before it."""


class ParameterRow(Protocol):
    """Where one of the reference's tensors lies in the module, and how it is laid out there."""

    @property
    def torch_name(self) -> str:
        """The reference's name."""

    @property
    def path(self) -> tuple[str | int, ...]:
        """The path of the leaf, as in `nnx.to_flat_state`."""

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """From the module's layout to the reference's."""

    def from_torch(self, array: np.ndarray) -> np.ndarray:
        """From the reference's layout to the module's."""


def nnx_side(
    module: nnx.Module,
    table: Sequence[ParameterRow],
    stages: Stages,
    loss: Loss,
    name: str = "flax",
    local: Local | None = None,
) -> Side:
    """A side that runs copies of the module, jitted, in evaluation mode.

    What is trained, and has a gradient, is what a Flax user's own loop would train: the
    `nnx.Param`s, by `nnx.Optimizer(model, tx, wrt=nnx.Param)`.

    Args:
        module: never changed.
        table: a row for every tensor of the reference; all names come from here.
        stages: runs the module and names what it computes on the way; it is traced.
        loss: what gradients and training descend, of the last stage and the input `target`.
        name: what reports call this side.
        local: runs every stage from given values, where the side can be run so; it is traced.
    """
    module = nnx.clone(module)
    module.eval()
    graphdef, template = nnx.split(module)

    def build(parameters: Arrays, dtype: str) -> nnx.Module:
        """A copy of the module in this dtype that holds the parameters."""
        leaves = {path: leaf[...] for path, leaf in nnx.to_flat_state(template)}
        for row in table:
            leaves[tuple(row.path)] = row.from_torch(np.asarray(parameters[row.torch_name]))
        model = nnx.merge(graphdef, nnx.clone(template))
        state = nnx.state(model)
        for path, leaf in nnx.to_flat_state(state):
            value = leaves[path]
            floating = jnp.issubdtype(value.dtype, jnp.floating)
            leaf.set_value(jnp.asarray(value, dtype=dtype) if floating else value)
        nnx.update(model, state)
        return model

    def output_loss(model: nnx.Module, inputs: Mapping[str, jax.Array]) -> jax.Array:
        *_, output = stages(model, inputs).values()
        return loss.jax(output, inputs[TARGET])

    @nnx.jit
    def run(model: nnx.Module, inputs: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        # jit sorts the keys of a dict, and keeps the order of an OrderedDict.
        return OrderedDict(stages(model, inputs))

    @nnx.jit
    def run_local(
        model: nnx.Module, inputs: Mapping[str, jax.Array], given: Mapping[str, jax.Array]
    ) -> Mapping[str, jax.Array]:
        assert local is not None
        return OrderedDict(local(model, inputs, given))

    @nnx.jit
    def differentiate_jitted(
        model: nnx.Module, sources: dict[str, jax.Array], rest: dict[str, jax.Array]
    ) -> tuple[jax.Array, tuple[nnx.State, dict[str, jax.Array]]]:
        def of(model: nnx.Module, sources: dict[str, jax.Array]) -> jax.Array:
            return output_loss(model, {**rest, **sources})

        return nnx.value_and_grad(of, argnums=(0, 1))(model, sources)

    def differentiate(
        model: nnx.Module, inputs: Arrays, dtype: str
    ) -> tuple[jax.Array, tuple[nnx.State, dict[str, jax.Array]]]:
        """The loss, and its gradients for the `nnx.Param`s and for the inputs that have one."""
        rest = _device(inputs, dtype)
        sources = {n: rest.pop(n) for n in differentiable(inputs)}
        return differentiate_jitted(model, sources, rest)

    @nnx.jit
    def step(updates: nnx.Optimizer, model: nnx.Module, gradient: nnx.State) -> None:
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it, whatever the caller set
            updates.update(model, gradient)

    def named(state: Any) -> dict[str, np.ndarray | None]:
        """The leaves of a state with the module's paths, under the reference's names."""
        leaves = dict(nnx.to_flat_state(state))
        found = [(row, leaves.get(tuple(row.path))) for row in table]
        return {
            row.torch_name: None if leaf is None else row.to_torch(np.asarray(leaf[...]))
            for row, leaf in found
        }

    def forward(parameters: Arrays, inputs: Arrays, dtype: str) -> Arrays:
        read = {n: array for n, array in inputs.items() if n != TARGET}  # what the loss reads
        with _precision(dtype):
            values = run(build(parameters, dtype), _device(read, dtype))
            return {n: np.asarray(value) for n, value in values.items()}

    def each_alone(parameters: Arrays, inputs: Arrays, given: Arrays, dtype: str) -> Arrays:
        with _precision(dtype):
            held = build(parameters, dtype)
            values = run_local(held, _device(inputs, dtype), _device(given, dtype))
            return {n: np.asarray(value) for n, value in values.items()}

    def gradients(parameters: Arrays, inputs: Arrays, dtype: str) -> Gradients:
        with _precision(dtype):
            _, (by_parameter, by_input) = differentiate(build(parameters, dtype), inputs, dtype)
            backward = dict(reversed(named(by_parameter).items()))
            return {**backward, **{n: np.asarray(g) for n, g in by_input.items()}}

    def train(
        parameters: Arrays, batches: Sequence[Arrays], optimizer: Optimizer, dtype: str
    ) -> Iterator[Step]:
        with _precision(dtype):
            model = build(parameters, dtype)
            updates = nnx.Optimizer(model, optimizer.optax, wrt=nnx.Param)
        for batch in batches:
            # Not around the yield: what runs between two steps has its own precision.
            with _precision(dtype):
                value, (gradient, _) = differentiate(model, batch, dtype)
                step(updates, model, gradient)
                left = left_behind(value, model, updates, optimizer)
            yield left

    def update(
        parameters: Arrays, slopes: Sequence[Gradients], optimizer: Optimizer, dtype: str
    ) -> Iterator[Step]:
        with _precision(dtype):
            model = build(parameters, dtype)
            updates = nnx.Optimizer(model, optimizer.optax, wrt=nnx.Param)
        rows: dict[Any, ParameterRow] = {tuple(row.path): row for row in table}
        for given in slopes:
            with _precision(dtype):
                gradient = nnx.clone(nnx.state(model, nnx.Param))
                for path, leaf in nnx.to_flat_state(gradient):
                    slope = given[rows[path].torch_name]
                    leaf.set_value(
                        jnp.zeros_like(leaf[...])
                        if slope is None
                        else jnp.asarray(rows[path].from_torch(slope), dtype)
                    )
                step(updates, model, gradient)
                left = left_behind(jnp.zeros(()), model, updates, optimizer)
            yield left

    def left_behind(
        value: jax.Array, model: nnx.Module, updates: nnx.Optimizer, optimizer: Optimizer
    ) -> Step:
        moments = {
            theirs: named(optax.tree_utils.tree_get(updates.opt_state, ours))
            for theirs, ours in optimizer.moments.items()
        }
        return Step(
            np.asarray(value),
            _complete(named(nnx.state(model))),
            {
                f"{row.torch_name}.{moment}": of[row.torch_name]
                for row in table
                for moment, of in moments.items()
            },
        )

    alone = None if local is None else each_alone
    return Side(name, _complete(named(template)), forward, gradients, train, alone, update)


@contextmanager
def recording(*modules: Any) -> Iterator[tuple[list[Any], ...]]:
    """What each call of each of these modules returns, for a `Stages` function to name."""
    classes = [type(module) for module in modules]
    calls: tuple[list[Any], ...] = tuple([] for _ in modules)
    try:
        for module, kind, results in zip(modules, classes, calls, strict=True):
            object.__setattr__(module, "__class__", _recorded(kind, results))
        yield calls
    finally:
        for module, kind in zip(modules, classes, strict=True):
            object.__setattr__(module, "__class__", kind)


def _recorded(kind: type, results: list[Any]) -> type:
    """The class, but that every call's result is also kept."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = kind.__call__(self, *args, **kwargs)
        results.append(result)
        return result

    return type(kind.__name__, (kind,), {"__call__": call})


def _complete(named: Mapping[str, np.ndarray | None]) -> dict[str, np.ndarray]:
    missing = [name for name, array in named.items() if array is None]
    if missing:
        raise ValueError(f"table: the module has no leaf where its rows point for {missing}")
    return {name: array for name, array in named.items() if array is not None}


def _device(arrays: Arrays, dtype: str) -> dict[str, jax.Array]:
    return {name: jnp.asarray(array) for name, array in cast(arrays, dtype).items()}


def _precision(dtype: str) -> Any:
    """float64 exists in JAX only under x64; without it, JAX as its users run it."""
    return jax.enable_x64(dtype == "float64")
