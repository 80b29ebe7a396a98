import dataclasses
from collections import Counter

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity import clean, cli, selftest
from parity.mutations import MUTATIONS, SHOWS, Mutation


def numbers(*names):
    known = [mutation.name for mutation in MUTATIONS]
    return [known.index(name) for name in names]


# One of every kind, forward and backward, by every way of planting.
SPREAD = numbers(
    "biases folded into one",
    "input and forget gates exchanged, reverse only",
    "state restarts at step 16",
    "halves of the output swapped",
    "reverse direction starts in the padding",
    "scores divided by √d",
    "head reads the first step",
    "folded biases: bias_hh gets no gradient",
    "no gradient through the attention weights",
    "recurrence's products in bfloat16",
    "tanh as (exp 2z − 1) / (exp 2z + 1)",
    "AdamW with optax's default weight decay",
    "the head's weight clipped to where it started",
)


@pytest.mark.parametrize("number", SPREAD, ids=lambda number: MUTATIONS[number].name)
def test_a_planted_fault_is_caught_placed_and_named(number):
    found = selftest.outcome(number)
    assert found.caught
    assert found.first.name == found.stage
    assert MUTATIONS[number].says in found.first.note


def test_the_table_has_distinct_faults_of_every_kind():
    assert len(MUTATIONS) >= 40
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
    assert Counter(m.shows for m in MUTATIONS).keys() == SHOWS.keys()
    assert {m.case for m in MUTATIONS} == set(selftest.CASES)


def test_a_fault_that_is_none_is_not_caught(monkeypatch):
    nothing = Mutation("nothing", "output", "forward")
    monkeypatch.setattr(selftest, "MUTATIONS", (nothing,))
    found = selftest.outcome(0)
    assert not found.caught
    assert not found.passed


@pytest.mark.parametrize("wrong", [{"stage": "fc.weight"}, {"says": "doubled"}])
def test_a_fault_placed_or_named_otherwise_is_not_passed(monkeypatch, wrong):
    (number,) = numbers("biases folded into one")
    monkeypatch.setattr(selftest, "MUTATIONS", (dataclasses.replace(MUTATIONS[number], **wrong),))
    found = selftest.outcome(0)
    assert found.caught
    assert not found.passed


@pytest.mark.parametrize("case", selftest.CASES)
def test_the_network_of_the_selftest_passes_unfaulted(case):
    report = selftest.plant(Mutation("nothing", "", "forward", case=case))
    report.assert_passed()


def test_unfaulted_networks_of_another_shape_raise_no_alarm():
    shape = clean.Shape(2, 3, 2, 2, 4, padded=True)
    with jax.disable_jit():
        assert clean.failures(shape, range(1, 3)) == []


@pytest.mark.parametrize("runs", [0, 1, 40, 1000])
def test_as_many_clean_runs_as_asked_for(runs):
    assert sum(len(seeds) for _, seeds in clean.tasks(runs)) == runs


@pytest.mark.parametrize(("passed", "status"), [(True, 0), (False, 1)])
def test_the_command_exits_by_the_score(monkeypatch, passed, status):
    monkeypatch.setattr(selftest, "run", lambda *arguments: passed)
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

    missed = selftest.Outcome("a", True, True, False, "output", None, 0.0)
    fine = dataclasses.replace(missed, named=True)
    monkeypatch.setattr(
        selftest.multiprocessing, "get_context", lambda kind: type("C", (), {"Pool": Pool})
    )
    monkeypatch.setattr(selftest, "MUTATIONS", MUTATIONS[:2])
    for second, expected in ((missed, False), (fine, True)):
        monkeypatch.setattr(selftest, "outcome", [fine, second].__getitem__)
        lines: list[str] = []
        assert selftest.run(0, 1, lines.append, lambda what: None) is expected
    assert any("2 of 2 faults named" in line for line in lines)
    assert np.all([isinstance(line, str) for line in lines])
