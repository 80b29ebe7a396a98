import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity.place import Case
from parity.proof import digits, figures, published
from parity.report import Report
from parity.results import Row


def test_the_whole_is_the_published_size_at_every_shape_and_seed_and_the_digits(monkeypatch):
    """What is asked for; how it is checked, test_checking and test_compare see."""
    asked = []

    def check_pair(pair, x, *, case, training_steps, **_):
        asked.append((pair, x, case, training_steps))
        return Report((Row(case, "forward", passed=True),), {})

    real = Report((Row(Case("digits", "trained"), passed=True),), {})
    monkeypatch.setattr(published, "check_pair", check_pair)
    monkeypatch.setattr(digits, "prove", lambda progress: real)
    drawn = {"stage_errors": [{"case": "c"}], "attention": [{"case": "c"}]}
    monkeypatch.setattr(
        figures, "stage_errors", lambda theirs, ours, x, case: drawn["stage_errors"]
    )
    monkeypatch.setattr(figures, "attention", lambda theirs, ours, x, case: drawn["attention"][0])
    report = published.whole(seeds=2, steps=3, jobs=1, progress=lambda what: None)

    assert report.figures == drawn
    shapes = [(4, 12), (1, 12), (4, 1), (1, 1), (5, 9), (8, 50), (33, 70)]
    asked.sort(key=lambda one: shapes.index(one[1]["x"].shape[:2]))  # seeds stay in order
    inputs = [x for _, x, _, _ in asked]
    assert [x["x"].shape for x in inputs] == [(*s, 128) for s in shapes for _ in range(2)]
    assert [steps for _, _, _, steps in asked] == [3] + [0] * 13
    (padded,) = {x["x"].shape[:2] for x in inputs if "lengths" in x}
    assert padded == (5, 9)
    for x in inputs[8:10]:
        assert sorted(x["lengths"]) == [1, 3, 5, 7, 9]
    for plain, loud in zip(inputs[::2], inputs[1::2], strict=True):
        assert loud["x"].std() > 20 * plain["x"].std()
    assert [row.case for row in report.rows] == [
        *(case for _, _, case, _ in asked),
        real.rows[0].case,
    ]
    assert asked[3][2] == Case("published size", "batch 1, time 12, seed 1")
    weights = {}
    for pair, _, case, _ in asked:
        theirs, ours = pair.reference.parameters, pair.candidate.parameters
        assert theirs["lstm.weight_ih_l0"].shape == (4 * 64, 128)
        assert theirs["fc.weight"].shape == (1, 2 * 64)
        assert list(theirs) == list(ours)
        assert all(np.array_equal(theirs[name], ours[name]) for name in theirs)
        assert not any(np.shares_memory(theirs[name], ours[name]) for name in theirs)
        weights.setdefault(case.which[-1], theirs["fc.bias"])
    assert not np.array_equal(weights["0"], weights["1"])
