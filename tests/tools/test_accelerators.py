"""The costs that `make accelerators` prints, here of programs compiled for the CPU."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.cells import Cell
from flax_bilstm.recurrence import IMPLEMENTATIONS
from flax_bilstm.sharding import make_mesh
from tools.accelerators.costs import costs
from tools.accelerators.programs import BATCH, HIDDEN_DIM, TIME, programs


def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile()


def test_every_step_of_loops_within_loops_is_counted():
    size, outer, inner = 32, 3, 5

    def segment(a, _):
        return jax.lax.scan(lambda a, _: (a @ a, None), a, length=inner)[0] @ a, None

    program = compiled(
        lambda a: jax.lax.scan(segment, a, length=outer)[0], jnp.ones((size, size), jnp.float32)
    )
    assert program.as_text().count(" while(") == 2
    products = outer * (inner + 1) * 2 * size**3
    assert products <= costs(program).flops < 1.01 * products


def test_a_loop_of_unknown_length_is_refused():
    square = jnp.ones((64, 64), jnp.float32)
    program = compiled(
        lambda a, most: jax.lax.while_loop(lambda a: a.sum() < most, lambda a: a @ a, a),
        square,
        1.0,
    )
    with pytest.raises(ValueError, match="expected a loop that counts up to a number"):
        costs(program)


@pytest.mark.usefixtures("quickly_compiled", "standard_promotion")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_training_step_costs_its_products_and_little_more(implementation):
    step = programs(implementation, jnp.float32, make_mesh(jax.devices("cpu")[:1]))
    program = compiled(step["training"].function, *step["training"].arguments)
    products = Cell("network", "training", HIDDEN_DIM, BATCH, TIME).matmul_flops
    most = 1.6 if implementation == "checkpointed" else 1.1  # which runs the forward pass twice
    assert 1 <= costs(program).flops / products < most
