"""Shared by both JAX contestants: one jitted function over a module's split state."""

import re
from collections.abc import Callable
from typing import Any

import flax
import jax
import numpy as np
import optax
from flax import nnx

from benchmarks.cells import Cell
from benchmarks.contestants import Prepared
from benchmarks.workload import LEARNING_RATE

CALLED = re.compile(r"custom_call @(\w+)")
PARTITIONING = {"Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape"}


def set_up(devices: int = 1) -> dict[str, Any]:
    """The devices, before anything runs."""
    jax.config.update("jax_num_cpu_devices", devices)
    return {
        "jax": jax.__version__,
        "flax": flax.__version__,
        "devices": jax.device_count(),
        "platform": jax.default_backend(),
    }


def prepare(
    model: Any,
    cell: Cell,
    forward: Callable[..., Any],
    named: Callable[[Any], dict[str, np.ndarray]],
    x: jax.Array,
    extra: dict[str, jax.Array],
) -> Prepared:
    """`forward(model, x, lengths)` as the cell needs it.

    `named` gives a module's parameters under PyTorch's names; `extra` has what the mode needs
    besides x: lengths, outputs_gradient, target.
    """
    split: Any = nnx.split(model, nnx.Param, ...)
    graph, parameters, rest = split

    def predict(parameters: Any, x: Any, extra: Any) -> Any:
        merged = nnx.merge(graph, parameters, rest, copy=True)
        return forward(merged, x, extra.get("lengths"))

    def gradients(parameters: Any, x: Any, extra: Any) -> Any:
        def outputs_of(parameters: Any, x: Any) -> Any:
            return predict(parameters, x, extra)[0]

        outputs, pull = jax.vjp(outputs_of, parameters, x)
        return outputs, *pull(extra["outputs_gradient"])

    if cell.mode == "training":
        return _training(parameters, predict, x, extra)
    function = jax.jit(predict if cell.mode == "inference" else gradients)

    def arrays(result: Any) -> dict[str, np.ndarray]:
        if cell.part == "network":
            return {"output": np.asarray(result)}
        if cell.mode == "inference":
            outputs, (h_n, c_n) = result
            found = {"outputs": outputs, "h_n": h_n, "c_n": c_n}
            return {name: np.asarray(array) for name, array in found.items()}
        outputs, of_parameters, of_x = result
        merged = nnx.merge(graph, of_parameters, rest, copy=True)
        return {"outputs": np.asarray(outputs), "x": np.asarray(of_x), **named(merged)}

    return Prepared(
        lambda: jax.block_until_ready(function(parameters, x, extra)),
        arrays,
        lambda: _kernel(function, parameters, x, extra),
    )


def _training(parameters: Any, predict: Any, x: Any, extra: Any) -> Prepared:
    """Whole steps with Adam; each continues from the previous one."""
    optimizer = optax.adam(LEARNING_RATE)

    def loss(parameters: Any, x: Any, extra: Any) -> Any:
        return ((predict(parameters, x, extra) - extra["target"]) ** 2).mean()

    def step(state: Any, x: Any, extra: Any) -> Any:
        parameters, moments = state
        value, gradients = jax.value_and_grad(loss)(parameters, x, extra)
        updates, moments = optimizer.update(gradients, moments)
        return value, (optax.apply_updates(parameters, updates), moments)

    function = jax.jit(step, donate_argnums=0)
    state = jax.tree.map(lambda leaf: leaf.copy(), (parameters, optimizer.init(parameters)))

    def run() -> Any:
        nonlocal state
        value, state = function(state, x, extra)
        return jax.block_until_ready(value)

    return Prepared(
        run,
        lambda value: {"output": np.asarray(value)},
        lambda: _kernel(function, state, x, extra),
    )


def _kernel(function: Any, *arguments: Any) -> str:
    """The loops and the foreign functions in the lowered program."""
    text = function.lower(*arguments).as_text()
    called = dict.fromkeys(name for name in CALLED.findall(text) if name not in PARTITIONING)
    loops = text.count("stablehlo.while")
    parts = [f"{loops} XLA loop{'s' if loops > 1 else ''}"] if loops else []
    return ", ".join([*called, *parts]) or "XLA, without a loop"
