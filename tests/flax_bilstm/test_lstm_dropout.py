"""Dropout stands between the layers, in training only, and keeps the mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm.recurrence import IMPLEMENTATIONS


@pytest.fixture
def seen(monkeypatch):
    """What each direction of each layer was given and gave, call by call: (x, outputs)."""
    record = []

    def run(weights, x, state, valid, reverse):
        outputs, final = IMPLEMENTATIONS["scan"](weights, x, state, valid, reverse)
        record.append((np.asarray(x), np.asarray(outputs)))
        return outputs, final

    monkeypatch.setitem(IMPLEMENTATIONS, "recorded", run)
    return record


def make(dropout, num_layers=2, implementation=None, seed=0):
    return fb.LSTM(
        3, 16, num_layers=num_layers, dropout=dropout, implementation=implementation,
        rngs=nnx.Rngs(0, dropout=seed),
    )  # fmt: skip


X = jax.random.normal(jax.random.key(0), (8, 10, 3))


def test_masks_between_layers_and_nowhere_else(seen):
    outputs, _ = make(0.25, num_layers=3, implementation="recorded")(X)
    (x_0, y_0), (x_1, y_1), (x_2, y_2) = seen
    np.testing.assert_array_equal(x_0, np.swapaxes(X, 0, 1))
    np.testing.assert_array_equal(np.swapaxes(outputs, 0, 1), y_2)
    for given, made in ((x_1, y_0), (x_2, y_1)):
        kept = given != 0
        np.testing.assert_allclose(given, np.where(kept, made / 0.75, 0), rtol=1e-6)
        deviation = np.sqrt(0.25 * 0.75 / kept.size)
        assert abs(kept.mean() - 0.75) < 4 * deviation  # so the mean of what is given on stays
    assert ((x_1 != 0) != (x_2 != 0)).any()


def test_one_layer_has_none(assert_identical):
    assert_identical(make(0.9, num_layers=1)(X), make(0.0, num_layers=1)(X))


def test_off_in_eval_and_on_again_in_train(assert_identical):
    plain, lstm = make(0.0)(X), make(0.5)
    lstm.eval()
    assert_identical(lstm(X), plain)
    lstm.train()
    assert (lstm(X)[0] != plain[0]).any()


def test_probability_1_gives_the_next_layer_zeros(assert_identical):
    lstm = make(1.0)
    second = fb.LSTM(16, 16, rngs=nnx.Rngs(0))
    second.layers[0] = lstm.layers[1]
    assert_identical(lstm(X)[0], second(jnp.zeros((8, 10, 16)))[0])


def test_another_mask_at_every_call_the_same_from_the_same_seed(assert_identical):
    lstm, twin, other = make(0.5), make(0.5), make(0.5, seed=1)
    first, second = lstm(X), lstm(X)
    assert (first[0] != second[0]).any()
    assert (first[0] != other(X)[0]).any()
    assert_identical((first, second), (twin(X), twin(X)))


def test_without_dropout_no_random_state():
    assert not nnx.state(make(0.0), nnx.RngState)
    assert nnx.state(make(0.5), nnx.RngState)


@pytest.mark.usefixtures("x64")
def test_in_eval_as_torch(assert_close):
    torch = pytest.importorskip("torch")
    reference = torch.nn.LSTM(3, 4, num_layers=2, dropout=0.5, batch_first=True).double().eval()
    lstm = fb.from_state_dict(reference.state_dict(), dropout=0.5)
    lstm.eval()
    x = np.asarray(X, np.float64)
    with torch.no_grad():
        expected = reference(torch.from_numpy(x))[0]
    assert_close({"outputs": lstm(x)[0]}, {"outputs": expected}, 1e-13)
