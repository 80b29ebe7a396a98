"""Every known mistake is asked for, by its words: by a fault of the self-test or by a test here."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity.diagnosis.lstm.reference import Cell
from parity.diagnosis.mistakes import arrays, cell, functions, sequence, update
from parity.selftest.faults import FAULTS
from parity.sides.optimizers import ADAM

from .test_mistakes_in_a_network import IN_EMBEDDINGS, IN_FUNCTIONS, IN_PRODUCTS, Attends
from .test_mistakes_in_an_lstm import IN_LSTMS, ORDER, OTHER_DIRECTION
from .test_mistakes_in_an_optimizer import IN_UPDATES
from .test_mistakes_in_arrays import IN_OUTPUTS, IN_PARAMETERS
from .test_mistakes_in_masks import IN_MASKS, LEFT_OUT
from .words import family


def known():
    """Every known mistake: whether it is one of parameters, and its words."""
    lstm, model = Cell(0, 0, "forward"), Attends()
    square = {name: np.eye(4) for name in ("bias_ih", "bias_hh")}
    in_code = [
        *cell.of_step(lstm), *sequence.of_direction(lstm), *sequence.of_output(["f", "r"]),
        *sequence.of_states(["f", "r"], 3, True), *sequence.of_states(["f", "r"], 3, False),
        *functions.of_stage(model), *update.of_update(ADAM.torch),
        *(relation(np.eye(2), 2 * np.eye(2)) for relation in arrays.RELATIONS),
    ]  # fmt: skip
    for words, *_ in in_code:
        yield False, family(words)
    for name in square:
        for words, _ in arrays.of_parameter(name, square):
            yield True, family(words)


def test_every_known_mistake_is_asked_for():
    here = [
        *IN_FUNCTIONS,
        *IN_PRODUCTS,
        *IN_EMBEDDINGS,
        *IN_OUTPUTS,
        *IN_UPDATES,
        *IN_LSTMS,
        *IN_MASKS,
        *LEFT_OUT,
        ORDER,
        OTHER_DIRECTION,
    ]
    asked = {(False, family(words)) for words in here}
    asked |= {(True, family(words)) for words in IN_PARAMETERS}
    asked |= {(fault.shows == "parameters", family(fault.says)) for fault in FAULTS}
    missing = [words for of, words in dict.fromkeys(known()) if (of, words) not in asked]
    assert missing == []


def test_no_two_known_mistakes_have_the_same_words():
    """Apart from the norms, whose mistakes are alike."""
    words = [words for words, _ in functions.of_stage(Attends()) if "norm" not in words]
    words = [w for w in words if "epsilon" not in w]
    words += [words for words, *_ in cell.of_step(Cell(0, 0, "forward"))]
    words += [words for words, *_ in sequence.of_direction(Cell(0, 0, "forward"))]
    assert [w for w in words if words.count(w) > 1] == []
