"""Laws that hold for every LSTM, whatever its numbers: no reference is needed."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import assume, given, settings

import flax_bilstm as fb
from flax_bilstm import sharding

from .configurations import CONFIGURATIONS
from .running import make_room, run

TOLERANCE = 1e-12

laws = settings(settings.get_profile("deep laws"))


def assert_same(actual, expected):
    """Two results of an LSTM: outputs and final states."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape
        assert np.abs(a - b).max(initial=0) <= TOLERANCE * max(1.0, np.abs(b).max(initial=0))


@laws
@given(CONFIGURATIONS)
def test_permuting_the_batch_permutes_the_results(config):
    make_room(config)
    model, call = config.model(), config.call()
    order = np.random.default_rng(config.seed).permutation(config.batch)
    outputs, state = run(model, **call)
    permuted = {
        "x": call["x"][order],
        "initial_state": call["initial_state"]
        and tuple(a[:, order] for a in call["initial_state"]),
        "lengths": None if call["lengths"] is None else call["lengths"][order],
    }
    assert_same(run(model, **permuted), (outputs[order], tuple(a[:, order] for a in state)))


@laws
@given(CONFIGURATIONS)
def test_reversing_time_exchanges_the_directions(config):
    make_room(config)
    config = config._replace(bidirectional=True, num_layers=1, lengths=False)
    model, call = config.model(), config.call()
    state_dict = fb.state_dict(model)
    other = {
        name.removesuffix("_reverse") if name.endswith("_reverse") else f"{name}_reverse": array
        for name, array in state_dict.items()
    }
    exchanged = config.model()
    fb.load_state_dict(exchanged, other)
    outputs, state = run(model, **call)
    half = outputs.shape[-1] // 2
    expected = np.concatenate([outputs[..., half:], outputs[..., :half]], axis=-1)[:, ::-1]
    turned = {
        "x": call["x"][:, ::-1],
        "initial_state": call["initial_state"] and tuple(a[::-1] for a in call["initial_state"]),
    }
    assert_same(run(exchanged, **turned), (expected, tuple(a[::-1] for a in state)))


@laws
@given(CONFIGURATIONS)
def test_a_run_split_in_two_is_the_whole_run(config):
    make_room(config)
    config = config._replace(bidirectional=False, lengths=False)
    assume(config.time > 1)
    model, call = config.model(), config.call()
    cut = config.time // 2
    before, state = run(model, x=call["x"][:, :cut], initial_state=call["initial_state"])
    after, state = run(model, x=call["x"][:, cut:], initial_state=state)
    assert_same((jnp.concatenate([before, after], axis=1), state), run(model, **call))


@laws
@given(CONFIGURATIONS)
def test_more_padding_changes_nothing(config):
    make_room(config)
    config = config._replace(lengths=True)
    model, call = config.model(), config.call()
    outputs, state = run(model, **call)
    wider = np.full((config.batch, config.time + 3, config.input_size), np.nan)
    wider[:, : config.time] = call["x"]
    padded, same_state = run(model, **(call | {"x": wider}))
    assert_same((padded[:, : config.time], same_state), (outputs, state))
    assert not np.asarray(padded[:, config.time :]).any()


@laws
@given(CONFIGURATIONS)
def test_vmap_is_a_loop(config):
    make_room(config)
    model, call = config.model(), config.call()
    stack = jnp.stack([call["x"], 2 * call["x"], -call["x"]])

    def run_one(x):
        return run(model, **(call | {"x": x}))

    expected = jax.tree.map(lambda *each: jnp.stack(each), *map(run_one, stack))
    assert_same(jax.vmap(run_one)(stack), expected)


@laws
@given(CONFIGURATIONS)
def test_jit_is_eager(config):
    make_room(config)
    model, call = config.model(), config.call()
    assert_same(run(model, **call), model(**call))


@laws
@given(CONFIGURATIONS)
def test_a_sharded_batch_is_a_batch(config):
    make_room(config)
    config = config._replace(batch=2 * config.batch, state=False)
    model, call = config.model(), config.call()
    mesh = sharding.make_mesh()
    parts = {name: value for name, value in call.items() if value is not None}
    placed = sharding.shard_batch(parts, mesh)
    assert_same(run(sharding.replicate(model, mesh), **placed), run(model, **call))


@laws
@given(CONFIGURATIONS)
def test_all_implementations_agree(config):
    make_room(config)
    call = config.call()
    assert_same(run(config.model(), **call), run(config.model("scan"), **call))
