import json

import pytest

from parity import Report, Row
from parity.place import Case, Place
from parity.results import without_distance

C1, C2 = Case("c", "1"), Case("c", "2")
GOOD = Row(
    C1, "forward", "float64", "output",
    passed=True, distance=1e-16, spread=1e-16, bound=1e-14, scale=1.0, epsilon=2**-52,
)  # fmt: skip
BAD = Row(
    C1, "forward", "float32", "lstm.h_n", passed=False, distance=0.5, reference_distance=1e-7,
    spread=2e-7, bound=1e-6, scale=2.0, epsilon=2**-23, where=(1, 2),
    size=8, beyond=3, candidate=0.75, truth=0.25,
)  # fmt: skip
NAN = without_distance(Place(C1, "forward", "float32", "x"), "the candidate has NaN")
FACTS = {"environment": {"versions": {"jax": "1"}}, "cases": {C1: {"seed": 3}}}


def test_passed_needs_rows():
    assert Report((GOOD,), {}).passed
    assert not Report((), {}).passed
    assert not Report((GOOD, BAD), {}).passed


def test_assert_passed_raises_the_report_as_its_text():
    Report((GOOD,), {}).assert_passed()
    with pytest.raises(AssertionError) as caught:
        Report((GOOD, BAD), **FACTS).assert_passed()
    text = str(caught.value)
    assert text == str(Report((GOOD, BAD), **FACTS))
    assert "FAILED: 1 of 2 comparisons; first lstm.h_n" in text
    assert "3 of 8; at [1, 2] the candidate has 0.7500, the truth 0.2500" in text


def test_ulp_are_of_the_array_scale():
    assert BAD.ulp(BAD.distance) == 0.5 / 2 / 2**-23


@pytest.mark.parametrize("rows", [(GOOD,), (GOOD, BAD), (BAD, NAN), ()])
def test_json_round_trip(rows):
    report = Report(rows, **FACTS)
    text = report.to_json()
    back = Report.from_json(text)
    assert back.to_json() == text
    assert back.passed == report.passed
    assert [row.name for row in back.rows] == [row.name for row in rows]
    if NAN not in rows:
        assert back == report


def test_json_is_standard_and_versioned():
    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads(Report((GOOD, NAN), **FACTS).to_json(), parse_constant=refuse)
    assert content["schema_version"] == 2
    assert content["passed"] is False
    assert content["first_divergence"]["name"] == "x"
    assert content["cases"] == [{"what": "c", "which": "1", "facts": {"seed": 3}}]


def test_another_schema_version_is_refused():
    text = Report((GOOD,), {}).to_json().replace('"schema_version": 2', '"schema_version": 1')
    with pytest.raises(ValueError, match="expected 2, got 1"):
        Report.from_json(text)


def test_joined_keeps_all_rows_cases_and_figures():
    curves = [{"case": "a"}], [{"case": "b"}, {"case": "c"}]
    figures = [{"loss_curves": curves[0]}, {"loss_curves": curves[1], "attention": []}]
    joined = Report.joined(
        [Report((GOOD,), figures=figures[0], **FACTS),
         Report((BAD,), {"versions": {"jax": "1"}}, figures[1], {C2: {"seed": 4}})]
    )  # fmt: skip
    assert joined.figures == {"loss_curves": [*curves[0], *curves[1]], "attention": []}
    assert len(curves[0]) == 1
    assert joined.rows == (GOOD, BAD)
    assert joined.cases == {C1: {"seed": 3}, C2: {"seed": 4}}
    assert joined.environment == {"versions": {"jax": "1"}}


def test_write_makes_the_directory_and_leaves_nothing_temporary(tmp_path):
    report = Report((GOOD, BAD), **FACTS)
    report.write(tmp_path / "a" / "b")
    names = sorted(path.name for path in (tmp_path / "a" / "b").iterdir())
    assert names == ["report.html", "report.json", "report.md"]
    assert Report.from_json((tmp_path / "a" / "b" / "report.json").read_text()) == report
