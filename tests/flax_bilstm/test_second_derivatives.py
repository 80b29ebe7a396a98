"""Derivatives of gradients, in both modes, and forward mode, of every implementation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from flax_bilstm.recurrence import IMPLEMENTATIONS

from .one_direction import HIDDEN, INPUTS, PROJECTED_OR_NOT, case, naming, others


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("batch", "proj", "implementations"), PROJECTED_OR_NOT)
def test_second_order_reverse_over_reverse(assert_close, batch, proj, implementations):
    weights, x, state, valid = case(jnp.float64, batch, proj=proj, time=3)

    def of_the_gradient(implementation):
        def loss(weights, x, state):
            outputs, final = IMPLEMENTATIONS[implementation](weights, x, state, valid, True)
            return jnp.sum(outputs**3) + jnp.sum(final.cell**3)

        def penalty(weights, x, state):
            grads = jax.grad(loss, argnums=(0, 1, 2))(weights, x, state)
            return sum(jnp.sum(grad**2) for grad in jax.tree.leaves(grads))

        d_weights, d_x, d_state = jax.jit(jax.grad(penalty, argnums=(0, 1, 2)))(weights, x, state)
        named = {**d_weights._asdict(), "x": d_x, **d_state._asdict()}
        return {name: value for name, value in named.items() if value is not None}

    expected = of_the_gradient("scan")
    assert all(np.asarray(value).any() for value in expected.values())
    for implementation in set(implementations) - {"scan"}:
        actual = of_the_gradient(implementation)
        with naming(implementation):
            assert_close(actual, expected, 1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("lengths", [False, True])
@others
def test_second_order_forward_over_reverse(assert_close, lengths, implementation):
    """As in `jax.hessian`: outputs, final states and every argument have tangents."""
    weights, x, state, valid = case(jnp.float64, lengths=lengths, time=3)
    rng = np.random.default_rng(1)
    given = (weights, x, state)
    tangents = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), given)

    def derivatives(implementation):
        def loss(weights, x, state):
            outputs, final = IMPLEMENTATIONS[implementation](weights, x, state, valid, True)
            return jnp.sum(outputs**3) + jnp.sum(final.cell**3) + jnp.sum(final.hidden**2)

        gradient = jax.value_and_grad(loss, argnums=(0, 1, 2))
        leaves = jax.tree.leaves(jax.jit(partial(jax.jvp, gradient))(given, tangents))
        return {str(number): leaf for number, leaf in enumerate(leaves)}

    assert_close(derivatives(implementation), derivatives("scan"), 1e-12)


@pytest.mark.usefixtures("x64")
def test_the_plain_one_takes_forward_mode_to_second_order():
    weights, x, state, valid = case(jnp.float64, proj=2, time=3)
    run = jax.jit(lambda x, state: IMPLEMENTATIONS["scan"](weights, x, state, valid, True))
    check_grads(run, (x, state), order=2, modes=["fwd", "rev"])


@pytest.mark.usefixtures("x64")
def test_jvp_jacobian_and_hessian_against_torch(assert_close):
    torch = pytest.importorskip("torch")
    weights, x, state, _ = case(jnp.float64, batch=1, time=3)
    lstm = torch.nn.LSTM(INPUTS, HIDDEN, dtype=torch.float64)
    with torch.no_grad():
        for parameter, value in zip(lstm.parameters(), weights[:4], strict=True):
            parameter.copy_(torch.tensor(np.asarray(value).T))
    states = tuple(torch.tensor(np.asarray(part))[None] for part in state)

    def theirs(x):
        return (lstm(x, states)[0] ** 3).sum()

    def ours(x):
        return jnp.sum(IMPLEMENTATIONS["scan"](weights, x, state, None, False)[0] ** 3)

    there = torch.tensor(np.asarray(x))
    direction = np.cos(np.arange(x.size)).reshape(x.shape)
    functional = torch.autograd.functional
    expected = {
        "jvp": functional.jvp(theirs, there, torch.tensor(direction))[1],
        "jacobian": functional.jacobian(theirs, there),
        "hessian": functional.hessian(theirs, there),
    }
    actual = {
        "jvp": jax.jit(lambda x, v: jax.jvp(ours, (x,), (v,))[1])(x, jnp.asarray(direction)),
        "jacobian": jax.jit(jax.jacfwd(ours))(x),
        "hessian": jax.jit(jax.hessian(ours))(x),
    }
    assert_close(actual, expected, 1e-12)


@pytest.mark.usefixtures("quickly_compiled")
@others
def test_where_forward_mode_is_not_defined_it_says_so(implementation):
    weights, x, state, valid = case(jnp.float32)
    run = IMPLEMENTATIONS[implementation]
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: run(weights, x, state, valid, False)[0], (x,), (x,))
