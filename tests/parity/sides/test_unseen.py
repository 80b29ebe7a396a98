"""What evaluation mode does not show is said."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
from parity.sides.unseen import notes

RNGS = nnx.Rngs(0)


class Ours(nnx.Module):
    def __init__(self, *parts):
        self.parts = nnx.List(parts)


def said(theirs, ours, held=None):
    held = {"w": np.ones(2)} if held is None else held
    return list(notes(torch.nn.Sequential(*theirs), Ours(*ours), held))


def test_models_without_any_of_it_have_no_note():
    assert said([torch.nn.Linear(2, 2)], [nnx.Linear(2, 2, rngs=RNGS)]) == []


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        ([torch.nn.Dropout(0.3)], [], "dropout differs"),
        ([torch.nn.Dropout(0.3)], [nnx.Dropout(0.2, rngs=RNGS)], "[0.3] in the reference, [0.2]"),
        ([torch.nn.Dropout(0.3)], [nnx.Dropout(0.3, rngs=RNGS)], "not run"),
        ([torch.nn.BatchNorm1d(2)], [nnx.BatchNorm(2, momentum=0.9, rngs=RNGS)], "not run"),
        ([torch.nn.BatchNorm1d(2)], [nnx.BatchNorm(2, momentum=0.99, rngs=RNGS)], "[0.1] in the"),
    ],
)
def test_dropout_and_momentum_are_compared_as_settings(theirs, ours, words):
    (note,) = said(theirs, ours)
    assert words in note


def test_the_dropout_between_the_layers_of_an_lstm_counts():
    theirs = torch.nn.LSTM(2, 3, num_layers=2, dropout=0.25)
    (note,) = said([theirs], [fb.LSTM(2, 3, num_layers=2, dropout=0.25, rngs=RNGS)])
    assert note == "not run, since it is training mode's: dropout, [0.25] in both"


def test_parameters_that_are_all_zero_are_told():
    (note,) = said([], [], {"w": np.zeros(2), "b": np.zeros(1)})
    assert "every parameter is 0" in note
