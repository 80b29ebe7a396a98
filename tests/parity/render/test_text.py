import re
from dataclasses import replace

import numpy as np
import pytest

from parity import Report, Row
from parity.place import Case
from parity.render import text as rendering

ROWS = tuple(
    Row(
        Case("c", str(i)),
        "forward",
        "float64",
        f"stage{i}",
        passed=i != 1,
        distance=i * 1e-15,
        bound=3e-15,
        scale=1.0,
        epsilon=2**-52,
    )
    for i in range(3)
)


def test_the_summary_counts_cases_and_shows_a_failure_before_all_else():
    text = rendering.text(Report(ROWS, {"matmul_precision": "highest"}))
    line = next(line for line in text.splitlines() if line.startswith("c  "))
    assert "stage1" in line
    assert line.rstrip().endswith("FAILED")
    assert line.split()[3:5] == ["3", "3"]
    assert "matmul_precision: highest" in text


def test_the_summary_shows_what_is_nearest_to_its_bound():
    passing = (ROWS[0], ROWS[2])
    text = rendering.text(Report(passing, {}))
    assert "stage2" in text
    assert "stage0" not in text


def test_both_distances_stand_there_absolute_and_in_ulp():
    row = Row(
        Case("c"), "forward", "float64", "y", passed=False, distance=3e-10,
        reference_distance=5e-13, spread=6e-13, bound=1e-12, scale=1.0, epsilon=2**-52,
    )  # fmt: skip
    report = Report((row,), {})
    summary = rendering.text(report).splitlines()
    (line,) = (line for line in summary if line.startswith("c "))
    expected = ["3.00e-10", "1.35e+06", "5.00e-13", "2.25e+03"]
    assert line.split()[6:10] == expected
    assert "5e-13 (2.25e+03 ULP)" in rendering.verdict(report)
    cells = [cell.strip() for cell in rendering.markdown(report).splitlines()[-1].split("|")]
    assert cells[4:8] == expected


def test_without_a_scale_there_are_no_ulp():
    row = replace(ROWS[1], distance=0.5, scale=0.0)
    assert "ULP" not in rendering.describe(row)
    assert "differs by 0.5, allowed" in rendering.describe(row)


def test_notes_stand_apart_each_once():
    facts = {"seed": 0, "notes": ["ignored: a", "equal: b"]}
    cases = {Case("c", "0"): facts, Case("c", "1"): {**facts, "notes": ["equal: b"]}}
    report = Report((ROWS[0],), {}, cases=cases)
    lines = rendering.text(report).splitlines()
    assert lines[0].endswith("; notes: 2")
    assert [line for line in lines if "note:" in line] == ["note: ignored: a", "note: equal: b"]
    assert lines[-1] == "c: seed 0"
    assert rendering.markdown(report).count("ignored: a") == 1
    assert "note" not in rendering.text(Report((ROWS[0],), {}))


def test_long_lists_of_failures_are_cut_short_and_say_so():
    many = tuple(replace(ROWS[1], case=Case("c"), name=f"s{i}") for i in range(25))
    assert "… and 5 more" in rendering.text(Report(many, {}))


def test_markdown_has_every_row():
    text = rendering.markdown(Report(ROWS, {}, cases={Case("c", "0"): {"seed": 7}}))
    assert all(f"| stage{i} |" in text for i in range(3))
    assert "seed 7" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_names_with_square_brackets_are_not_taken_for_markup():
    row = Row(name="layers[bold]", passed=False, note="the truth has [bold]")
    text = rendering.text(Report((row,), {}))
    assert "the truth has [bold]" in text
    assert "layers[bold]" in text.splitlines()[2]


def test_the_terminal_says_sizes_seeds_precision_and_versions():
    cases = {
        Case("published size", f"batch {batch}, seed {seed}"): {
            "inputs": {"x": [batch, 12, 128]},
            "training_steps": 10 if batch == 4 else 0,
            "seed": seed,
            "parameters": 103489,
        }
        for batch in (4, 1)
        for seed in (0, 1, 2)
    }
    cases[Case("digits", "trained")] = {"inputs": {"x": [360, 8, 8]}, "seed": 7, "hidden_dim": 32}
    environment = {"dtypes": ["float64", "float32"], "matmul_precision": "highest",
                   "versions": {"jax": "1.2", "torch": "3.4"}}  # fmt: skip
    lines = rendering.text(Report(ROWS, environment, cases=cases)).splitlines()
    assert (
        "published size: x 4 × 12 × 128, 1 × 12 × 128; training_steps 10, 0; seed 0, 1, 2; "
        "parameters 103489"
    ) in lines
    assert "digits: x 360 × 8 × 8; seed 7; hidden_dim 32" in lines
    assert "dtypes: float64 and float32" in lines
    assert "matmul_precision: highest" in lines
    assert "versions: jax 1.2, torch 3.4" in lines


def test_a_check_of_no_name_says_its_sizes_too():
    cases = {Case(): {"inputs": {"x": [2, 3]}, "seed": 0}}
    assert "the inputs: x 2 × 3; seed 0" in rendering.text(Report(ROWS, {}, cases=cases))


@pytest.mark.parametrize(
    ("candidate", "truth", "written"),
    [
        (0.1234, 0.12, "0.1234, the truth 0.1200"),
        (1 + 1e-9, 1.0, "1.000000001, the truth 1.000000000"),
        (0.1, float(np.nextafter(0.1, 1)), "0.1, the truth 0.10000000000000002"),
        (-0.0, 0.0, "-0.000, the truth 0.000"),
        (float("nan"), 0.5, "nan, the truth 0.5000"),
        (2**53 + 1, 2**53, "9007199254740993, the truth 9007199254740992"),
    ],
)
def test_a_failure_says_how_many_elements_are_wrong_and_both_values_at_the_worst(
    candidate, truth, written
):
    wrong = replace(ROWS[1], size=128, beyond=3, where=(0, 5), candidate=candidate, truth=truth)
    words = f"elements beyond the bound: 3 of 128; at [0, 5] the candidate has {written}"
    report = Report((wrong,), {})
    assert rendering.verdict(report).endswith(words)
    assert words in rendering.markdown(report)
    with pytest.raises(AssertionError, match=re.escape(words)):
        report.assert_passed()
    assert "elements that differ: 3" in rendering.describe(replace(wrong, epsilon=0.0))
    assert "elements" not in rendering.describe(replace(wrong, beyond=0))
