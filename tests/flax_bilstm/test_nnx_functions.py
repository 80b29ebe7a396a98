"""Our modules under NNX's graph functions: split and merge, jit, eval_shape, train and eval."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb

# Two ways to the same numbers are compared here; how they round is judged elsewhere.
pytestmark = pytest.mark.usefixtures("quickly_compiled")

BATCH, TIME, IN, HIDDEN = 3, 4, 2, 3
X = jax.random.normal(jax.random.key(7), (BATCH, TIME, IN))
LENGTHS = jnp.array([4, 1, 3])
FLOAT32 = 1e-6


def make_lstm(seed: int = 0, **options: Any) -> fb.LSTM:
    return fb.LSTM(IN, HIDDEN, **options, rngs=nnx.Rngs(seed))


def make_network(seed: int = 0, **options: Any) -> fb.BiLSTMWithAttention:
    return fb.BiLSTMWithAttention(IN, HIDDEN, 1, **options, rngs=nnx.Rngs(seed))


def test_split_update_and_merge(assert_identical: Callable[..., None]) -> None:
    model = make_network()
    graphdef, params, unused = nnx.split(model, nnx.Param, fb.Unused)
    assert len(jax.tree.leaves(params)) == 10
    assert len(jax.tree.leaves(unused)) == 2
    assert_identical(nnx.merge(graphdef, params, unused)(X), model(X))
    doubled = nnx.merge(graphdef, jax.tree.map(lambda leaf: 2 * leaf, params), unused)
    assert not np.allclose(doubled(X), model(X))
    nnx.update(doubled, params)
    assert_identical(doubled(X), model(X))


def test_jit_traces_once_for_models_of_one_kind(assert_close: Callable[..., None]) -> None:
    traces = []

    @nnx.jit
    def run(model: fb.BiLSTMWithAttention, x: jax.Array, lengths: jax.Array) -> jax.Array:
        traces.append(model)
        return model(x, lengths=lengths)

    one, other = make_network(0), make_network(1)
    for model in (one, other, one):
        for lengths in (LENGTHS, LENGTHS[::-1]):
            expected = model(X, lengths=lengths)
            assert_close({"y": run(model, X, lengths)}, {"y": expected}, FLOAT32)
    assert len(traces) == 1
    run(make_network(0, implementation="scan"), X, LENGTHS)  # another program
    assert len(traces) == 2


def test_eval_shape_makes_no_arrays() -> None:
    model = nnx.eval_shape(make_network)
    kernel = model.fc.kernel.get_value()
    assert isinstance(kernel, jax.ShapeDtypeStruct)
    assert kernel.shape == (2 * HIDDEN, 1)
    assert nnx.eval_shape(lambda m, x: m(x), make_network(), X).shape == (BATCH, 1)
    outputs, (h_n, c_n) = nnx.eval_shape(lambda m, x: m(x), make_lstm(num_layers=2, proj_size=1), X)
    assert (outputs.shape, h_n.shape, c_n.shape) == ((3, 4, 1), (2, 3, 1), (2, 3, 3))


def test_display_shows_sizes_and_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    nnx.display(make_network())
    shown = capsys.readouterr().out
    for part in ("BiLSTMWithAttention", "hidden_size=3", "kernel_hh", "Unused", "bidirectional"):
        assert part in shown


def test_train_and_eval_switch_dropout_and_streams_are_apart(
    assert_identical: Callable[..., None],
) -> None:
    def make(**seeds: int) -> fb.LSTM:
        return fb.LSTM(IN, HIDDEN, num_layers=2, dropout=0.5, rngs=nnx.Rngs(**seeds))

    model, twin = make(params=0, dropout=1), make(params=0, dropout=2)
    assert_identical(
        nnx.to_pure_dict(nnx.state(model, nnx.Param)), nnx.to_pure_dict(nnx.state(twin, nnx.Param))
    )
    first, second = model(X)[0], model(X)[0]  # a new mask each time
    assert not np.array_equal(first, second)
    assert (first != 0).all()  # the last layer's output is not dropped
    assert not np.array_equal(first, twin(X)[0])
    assert_identical(make(params=0, dropout=1)(X)[0], first)
    for lstm in (model, twin):
        lstm.eval()
    assert_identical(model(X), model(X))
    assert_identical(model(X), twin(X))
    assert_identical(model(X), make_without_dropout(model)(X))
    model.train()
    assert not np.array_equal(model(X)[0], twin(X)[0])


def make_without_dropout(lstm: fb.LSTM) -> fb.LSTM:
    plain = make_lstm(seed=9, num_layers=lstm.num_layers)
    fb.load_state_dict(plain, fb.state_dict(lstm))
    return plain


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (lambda rngs: fb.LSTM(6, 4, rngs=rngs), (jnp.ones((3, 5, 6)),)),
        (
            lambda rngs: fb.LSTM(
                6, 4, num_layers=2, bidirectional=True, dropout=0.5, proj_size=2, rngs=rngs
            ),
            (jnp.ones((3, 5, 6)), None, jnp.asarray([1, 5, 2])),
        ),
        (lambda rngs: fb.BiLSTMWithAttention(6, 4, 3, rngs=rngs), (jnp.ones((3, 5, 6)),)),
        (lambda rngs: fb.Attention(8, score="general", rngs=rngs), (jnp.ones((3, 5, 8)),)),
        (
            lambda rngs: fb.LSTMCell(6, 4, rngs=rngs),
            ((jnp.ones((3, 4)), jnp.ones((3, 4))), jnp.ones((3, 6))),
        ),
    ],
    ids=["lstm", "stacked", "network", "attention", "cell"],
)
def test_tabulate(model: Callable[[nnx.Rngs], Any], inputs: tuple[Any, ...]) -> None:
    """`nnx.tabulate` wraps every public method of a module in `jax.jit`, and our methods bear it.

    A method that does not leaves the class wrapped, and every later call in the process fails.
    """
    module = model(nnx.Rngs(0))
    table = nnx.tabulate(module, *inputs, console_kwargs={"force_terminal": False, "width": 200})
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
    assert f"{count:,} (" in table
    module(*inputs)
