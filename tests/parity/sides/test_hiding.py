"""What hides mistakes is noted, and nothing else is."""

import numpy as np
import pytest

from parity.sides.hiding import notes

NOTE = "weight equals its transpose, which hides whether it is needed"
UPPER = np.triu(np.arange(9.0).reshape(3, 3))
MATRICES = {
    "symmetric": (UPPER + UPPER.T, True),
    "two edges": (np.eye(5)[[0, 3, 2, 1, 4]] - np.eye(5), True),
    "any other": (UPPER, False),
    "diagonal": (np.diag([1.0, 2.0, 3.0]), False),
    "one number": (np.full((3, 3), 0.25), False),
    "no square": (np.ones((2, 3)), False),
    "a vector": (np.ones(3), False),
}


@pytest.mark.parametrize("name", MATRICES)
def test_symmetric_matrices_are_noted(name):
    matrix, symmetric = MATRICES[name]
    found = list(notes([], {"weight": matrix}, {}, []))
    assert found == ([NOTE] if symmetric else [])


def test_symmetric_inputs_are_noted():
    adjacency = np.stack([UPPER + UPPER.T, 2 * UPPER + 2 * UPPER.T])
    assert list(notes([], {}, {"adjacency": adjacency}, [])) == [
        NOTE.replace("weight", "adjacency")
    ]
    assert not list(notes([], {}, {"adjacency": np.stack([UPPER, UPPER.T])}, []))
