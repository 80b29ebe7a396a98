"""The contestants: each builds a function that runs one cell once, and blocks until it is done.

All start from the same weights and see the same inputs, both made by NumPy from one seed. Inference
returns the outputs; training does a whole step (forward, backward, Adam) and returns its loss.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.cells import INPUT_DIM, OUTPUT_DIM, Cell, Contestant

LEARNING_RATE = 1e-3
Run = Callable[[], Any]
Weights = dict[str, np.ndarray]


def weights(hidden_dim: int) -> Weights:
    """A state dict of the reference network, from a fixed seed."""
    rng = np.random.default_rng(0)
    features = 2 * hidden_dim
    shapes: dict[str, tuple[int, ...]] = {}
    for suffix in ("", "_reverse"):
        shapes[f"lstm.weight_ih_l0{suffix}"] = (4 * hidden_dim, INPUT_DIM)
        shapes[f"lstm.weight_hh_l0{suffix}"] = (4 * hidden_dim, hidden_dim)
        shapes[f"lstm.bias_ih_l0{suffix}"] = (4 * hidden_dim,)
        shapes[f"lstm.bias_hh_l0{suffix}"] = (4 * hidden_dim,)
    shapes["attention.attn.weight"] = (features, features)
    shapes["attention.attn.bias"] = (features,)
    shapes["fc.weight"], shapes["fc.bias"] = (OUTPUT_DIM, features), (OUTPUT_DIM,)
    bound = hidden_dim**-0.5
    return {n: rng.uniform(-bound, bound, shape).astype("f4") for n, shape in shapes.items()}


def inputs(cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """x (batch, time, input) and the targets (batch, output), from a fixed seed."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((cell.batch, cell.time, INPUT_DIM)).astype("f4")
    return x, rng.standard_normal((cell.batch, OUTPUT_DIM)).astype("f4")


def build_torch(cell: Cell, contestant: Contestant, dtype: str = "float32") -> Run:
    """Eager PyTorch, the reference network as it stands, with as many threads as cores."""
    import torch

    import torch_ref

    model = torch_ref.BiLSTMWithAttention(INPUT_DIM, cell.hidden_dim, OUTPUT_DIM)
    model.load_state_dict({n: torch.from_numpy(w) for n, w in weights(cell.hidden_dim).items()})
    model = model.to(getattr(torch, dtype))
    x, target = (torch.from_numpy(array).to(getattr(torch, dtype)) for array in inputs(cell))
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

    def infer() -> Any:
        with torch.inference_mode():
            return model(x).numpy()

    def train() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), target)
        loss.backward()
        optimizer.step()
        return loss.item()

    return infer if cell.mode == "inference" else train


def build_flax_bilstm(cell: Cell, contestant: Contestant) -> Run:
    """This library, with one implementation, on one device or the batch split over several."""
    import jax

    import flax_bilstm as fb
    from flax_bilstm import sharding

    model = fb.from_state_dict(weights(cell.hidden_dim), implementation=contestant.implementation)
    x, target = (jax.numpy.asarray(array) for array in inputs(cell))
    if contestant.devices == 1:
        return _jitted(model, x, target, cell.mode)
    mesh = sharding.make_mesh(directions=contestant.directions)
    x, target = sharding.shard_batch((x, target), mesh)
    run = _jitted(sharding.replicate(model, mesh), x, target, cell.mode)

    def run_in_mesh() -> Any:
        with jax.set_mesh(mesh):
            return run()

    return run_in_mesh


def build_nnx(cell: Cell, contestant: Contestant) -> Run:
    """The same network in flax.nnx: Bidirectional RNNs over its own cell, attention as written."""
    from benchmarks import nnx_network

    model = nnx_network.from_state_dict(weights(cell.hidden_dim))
    x, target = inputs(cell)
    return _jitted(model, x, target, cell.mode)


def _jitted(model: Any, x: Any, target: Any, mode: str) -> Run:
    """One jitted function over the module's split state: what both JAX contestants run."""
    import jax
    import optax
    from flax import nnx

    split: Any = nnx.split(model, nnx.Param, ...)
    graph, parameters, rest = split
    x, target = jax.device_put((x, target))

    def predict(parameters: Any, rest: Any, x: Any) -> Any:
        return nnx.merge(graph, parameters, rest, copy=True)(x)

    if mode == "inference":
        infer = jax.jit(predict)
        return lambda: np.asarray(infer(parameters, rest, x))
    optimizer = optax.adam(LEARNING_RATE)

    def loss(parameters: Any, rest: Any, x: Any, target: Any) -> Any:
        return ((predict(parameters, rest, x) - target) ** 2).mean()

    def step(state: Any, rest: Any, x: Any, target: Any) -> Any:
        parameters, moments = state
        value, gradients = jax.value_and_grad(loss)(parameters, rest, x, target)
        updates, moments = optimizer.update(gradients, moments)
        return value, (optax.apply_updates(parameters, updates), moments)

    jitted = jax.jit(step, donate_argnums=0)
    state = jax.tree.map(lambda leaf: leaf.copy(), (parameters, optimizer.init(parameters)))

    def train() -> Any:
        nonlocal state
        value, state = jitted(state, rest, x, target)
        return jax.block_until_ready(value).item()

    return train


BUILDERS = {"torch": build_torch, "nnx": build_nnx, "flax_bilstm": build_flax_bilstm}
