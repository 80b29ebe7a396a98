import os
from functools import partial

import pytest

torch = pytest.importorskip("torch")

from parity.place import Case
from parity.proof import parts
from parity.report import Report
from parity.results import Row


def part(name, progress):
    progress(name)
    where = {"pid": os.getpid(), "threads": torch.get_num_threads()}
    return Report((Row(Case(name), passed=True),), where)


def bad(progress):
    raise ValueError("model.pt: no such tensor")


def names(reports):
    return [report.rows[0].case.what for report in reports]


def test_one_job_runs_every_part_here_in_order():
    told = []
    reports = parts.prove([partial(part, name) for name in "abc"], 1, told.append)
    assert names(reports) == told == ["a", "b", "c"]
    assert {report.environment["pid"] for report in reports} == {os.getpid()}


def test_several_processes_share_the_parts_and_keep_their_order():
    told = []
    given = [partial(part, name) for name in "abcdefgh"]
    reports = parts.prove(given, 2, told.append)
    assert names(reports) == list("abcdefgh")
    pids = [report.environment["pid"] for report in reports]
    assert pids[0] != os.getpid()
    assert pids[-1] == os.getpid()
    assert reports[0].environment["threads"] == 1
    assert "h" in told
    assert "a" not in told


def test_what_a_part_raises_in_another_process_is_raised():
    with pytest.raises(ValueError, match="no such tensor"):
        parts.prove([bad, partial(part, "a")], 2, lambda what: None)
