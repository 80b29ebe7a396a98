import dataclasses
from collections import Counter
from functools import cache

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity import cli
from parity.selftest import false_alarms, run
from parity.selftest.fault import more_steps_than
from parity.selftest.faults import FAULTS, SHOWS, Fault
from parity.selftest.networks import NETWORKS, OURS

# Operations run one by one, as no user's program does: how they are compiled is not judged here.
pytestmark = pytest.mark.usefixtures("operation_by_operation")


def numbers(*names):
    known = [fault.name for fault in FAULTS]
    return [known.index(name) for name in names]


# One of every kind, forward and backward, by every way of planting.
SPREAD = numbers(
    "biases folded into one",
    "state restarts at step 16",
    "reverse direction starts in the padding",
    "scores divided by √d",
    "folded biases: bias_hh gets no gradient",
    "no gradient through the attention weights",
    "recurrence's products in bfloat16",
    "tanh as (exp 2z − 1) / (exp 2z + 1)",
    "AdamW with optax's default weight decay",
    "the head's weight clipped to where it started",
    "a Padé fraction for the cell gate's tanh",
    "the cell's output is its cell state",
    "function: no gradient through the hidden state",
)


plant = cache(run.plant)
"""A check with a fault planted takes seconds: what is judged in several ways is run once."""


@pytest.mark.parametrize("number", SPREAD, ids=lambda number: FAULTS[number].name)
def test_a_planted_fault_is_caught_placed_and_named(monkeypatch, number):
    monkeypatch.setattr(run, "plant", plant)
    found = run.outcome(number)
    assert found.caught
    assert found.first.name == found.stage
    assert found.named, found.first.note


def test_the_table_has_distinct_faults_of_every_kind():
    assert len(FAULTS) >= 150
    assert sum(fault.case not in OURS for fault in FAULTS) >= len(FAULTS) / 3
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert Counter(m.shows for m in FAULTS).keys() == SHOWS.keys()
    assert {m.case for m in FAULTS} == set(NETWORKS)


def test_a_fault_that_is_none_is_not_caught(monkeypatch):
    nothing = Fault("nothing", "output", "forward", case="plain")
    monkeypatch.setattr(run, "FAULTS", (nothing,))
    found = run.outcome(0)
    assert not found.caught
    assert not found.passed


def test_a_fault_that_needs_other_sizes_is_refused():
    fault = Fault("it restarts late", "output", "later steps", needs=more_steps_than(20))
    with pytest.raises(ValueError, match="'it restarts late' in 'plain' needs more than 20 time"):
        run.plant(fault)


@pytest.mark.parametrize("wrong", [{"stage": "fc.weight"}, {"says": "doubled"}])
def test_a_fault_placed_or_named_otherwise_is_not_passed(monkeypatch, wrong):
    (number,) = numbers("biases folded into one")
    right = FAULTS[number]
    monkeypatch.setattr(run, "plant", lambda fault: plant(right))
    monkeypatch.setattr(run, "FAULTS", (dataclasses.replace(right, **wrong),))
    found = run.outcome(0)
    assert found.caught
    assert not found.passed


# "plain" is above.
@pytest.mark.parametrize("case", ["padded", "large", "decoder", "nnx.RNN", "function"])
def test_networks_of_every_sort_pass_unfaulted(case):
    assert run.unfaulted(case) == ""


def test_unfaulted_networks_of_other_weights_raise_no_alarm():
    """In the shape of "padded", whose operations are compiled already."""
    shape = false_alarms.Shape(4, 4, 8, 3, 20, padded=True)
    assert false_alarms.failures(shape, range(1, 2)) == []


@pytest.mark.parametrize("runs", [0, 1, 40, 1000])
def test_as_many_clean_runs_as_asked_for(runs):
    assert sum(len(seeds) for _, seeds in false_alarms.tasks(runs)) == runs


@pytest.mark.parametrize(("passed", "status"), [(True, 0), (False, 1)])
def test_the_command_exits_by_the_score(monkeypatch, passed, status):
    monkeypatch.setattr(run, "run", lambda *arguments: passed)
    assert cli.main(["selftest", "--clean-runs", "0"]) == status


def test_a_score_short_of_all_is_no_pass(monkeypatch):
    class Pool:
        def __init__(self, jobs):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def imap(self, function, items):
            return map(function, items)

    missed = run.Outcome("a", True, True, False, True, "output", None, 0.0)
    fine = dataclasses.replace(missed, named=True)
    monkeypatch.setattr(
        run.multiprocessing, "get_context", lambda kind: type("C", (), {"Pool": Pool})
    )
    monkeypatch.setattr(run, "FAULTS", FAULTS[:2])
    monkeypatch.setattr(run, "NETWORKS", {})
    for second, expected in ((missed, False), (fine, True)):
        monkeypatch.setattr(run, "outcome", [fine, second].__getitem__)
        lines: list[str] = []
        assert run.run(0, 1, lines.append, lambda what: None) is expected
    assert any("2 of   2 named" in line for line in lines)
    assert np.all([isinstance(line, str) for line in lines])
