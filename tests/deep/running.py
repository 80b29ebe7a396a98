"""An LSTM run, and differentiated, by programs that compile in a quarter of the usual time.

Float64 judges meaning, so that simple machine code will do. What users get is judged in float32,
by other tests.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import flax_bilstm as fb

from ..compiling import UNOPTIMIZED, simple_code
from .configurations import Configuration

compiled = partial(jax.jit, static_argnums=0, compiler_options=simple_code() | UNOPTIMIZED)


def make_room(config: Configuration) -> None:
    """Forget all compiled programs in one case of 256: those of thousands would fill the memory."""
    if config.seed % 256 == 0:
        jax.clear_caches()


def run(model: fb.LSTM, **call: Any) -> Any:
    """The outputs and the final state of one call."""
    return _run(*nnx.split(model), call)


def gradients(model: fb.LSTM, **call: Any) -> Any:
    """Outputs and final state, and the gradients of their sum of squares.

    They are (outputs, h_n, c_n), an LSTM that holds the gradients, and the gradient of x.
    """
    graph, parameters = nnx.split(model)
    values, (of_parameters, of_x) = _gradients(graph, parameters, call.pop("x"), call)
    return values, nnx.merge(graph, of_parameters), of_x


@compiled
def _run(graph: Any, parameters: Any, call: Any) -> Any:
    return nnx.merge(graph, parameters)(**call)


@compiled
def _gradients(graph: Any, parameters: Any, x: Any, call: Any) -> Any:
    def loss_of(parameters: Any, x: Any) -> Any:
        outputs, (h_n, c_n) = nnx.merge(graph, parameters)(x, **call)
        return sum(jnp.sum(a**2) for a in (outputs, h_n, c_n)), (outputs, h_n, c_n)

    (_, values), of_both = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)(parameters, x)
    return values, of_both
