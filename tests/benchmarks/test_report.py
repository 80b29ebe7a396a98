"""The tables and goals are what the JSON says."""

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from benchmarks.cells import Cell
from benchmarks.contestants import ALTERNATIVES, OURS, entrants
from benchmarks.report import figures, goals, publish, tables


def measured(cell, **milliseconds):
    """PyTorch takes 8 ms, this library 2 and everyone else 4, unless said otherwise."""
    medians = dict.fromkeys(entrants(cell), 4.0) | {"PyTorch": 8.0, OURS: 2.0} | milliseconds
    return {
        **cell._asdict(),
        "seconds": {
            name: {"median": m / 1e3, "quartile_1": 0.9 * m / 1e3, "quartile_3": m / 1e3}
            for name, m in medians.items()
        },
        "kernels": dict.fromkeys(medians, "a kernel"),
    }


SMALL = Cell("layer", "inference", 64, 1, 32)
LARGE = Cell("layer", "inference", 64, 32, 128)
LONG = Cell("network", "training", 64, 8, 2048)


@pytest.fixture
def results():
    beside = {
        "dispatch_seconds": {
            "layer, hidden 8": 50e-6, "empty, hidden 8": 10e-6,
            "layer, hidden 64": 90e-6, "empty, hidden 64": 10e-6,
        },
        "memory_cell": Cell("network", "training", 64, 8, 8192)._asdict(),
        "peak_bytes": {OURS: 329.5 * 2**20, "PyTorch": 6000 * 2**20},
        "compile_seconds": [{**LONG._asdict(), "seconds": 1.25}],
    }  # fmt: skip
    return {
        "machine": {"cores": 2, "processor": "P", "python": "3.11.7", "busy": 0.01},
        "contestants": {"PyTorch": {"torch": "2.13.0+cpu", "threads": 2}},
        "matmul_flops_per_second": LARGE.matmul_flops * 1e3,  # a floor of 1 ms
        "cells": [measured(SMALL, OpenVINO=1.0), measured(LARGE), measured(LONG)],
        "beside": beside,
    }


def test_ratios_are_of_our_default(results):
    small, large, _ = results["cells"]
    assert figures.ratio(small, "PyTorch") == pytest.approx(4)
    assert figures.fastest_peer(small) == "OpenVINO"
    assert figures.ratio(small) == pytest.approx(0.5)
    assert figures.floor(results, large) == pytest.approx(1e-3)
    assert figures.geometric_mean([1, 4]) == pytest.approx(2)


def test_the_fastest_is_bold_and_absent_ones_are_dashes(results):
    head, _, small, large, long = tables.times(
        results, results["cells"], tables.full_name
    ).splitlines()
    columns = [text.strip() for text in head.strip("|").split("|")][3:]

    def row(line):
        texts = [text.strip() for text in line.strip("|").split("|")][3:]
        return dict(zip(columns, texts, strict=True))

    assert (row(small)["OpenVINO"], row(small)[OURS]) == ("**1**", "2")
    assert row(small)["over the fastest peer"] == "0.50×"
    assert (row(large)[OURS], row(large)["floor"]) == ("**2**", "1")
    assert row(long)["OpenVINO"] == "–"
    assert row(long)["over PyTorch"] == "4.00×"


def test_long_times_are_written_out():
    assert [tables.milliseconds(t) for t in (12.3456, 0.001234, 2e-6)] == ["12346", "1.23", "0.002"]


def test_goals(results):
    figure = {goal.text: goal.measure(results) for goal in goals.GOALS}
    assert figure["layer, inference: never slower than the fastest peer"] == pytest.approx(0.5)
    assert figure["layer, inference: mean over eager PyTorch"] == pytest.approx(4)
    assert figure["layer, gradients: mean over eager PyTorch"] is None
    assert figure["network, 2048 steps and more: each over eager PyTorch"] == pytest.approx(4)
    assert figure["batches of 32 and more, inference: the floor"] == pytest.approx(2)
    assert figure["a jitted call at 1 × 32 (hidden 8) beyond an empty one"] == pytest.approx(40)
    assert figure["memory of training at 8 × 8192, of version 0.1's"] == pytest.approx(0.5)
    rows = tables.goals(results)
    assert "| at least 1× | 0.50× | missed by 50% |" in rows
    assert "| at least 1.5× | 4.00× | reached |" in rows
    assert "| at most 1.3× | 2.00× | missed by 54% |" in rows
    assert "| at most 30 µs | 40.00 µs | missed by 33% |" in rows
    assert "| not measured | – |" in rows


def test_a_goal_that_is_nearly_reached_is_missed():
    goal = goals.Goal("text", lambda results: None, 1)
    verdicts = [goals.verdict(goal, figure) for figure in (1.0, 0.999, 0.5)]
    assert verdicts == ["reached", "missed by less than 1%", "missed by 50%"]


def test_summary(results):
    assert "| The LSTM layer, inference | 2 | 4.00× (4.00–4.00) |" in tables.summary(results)
    assert "| 1.00× (0.50–2.00) |" in tables.summary(results)  # OpenVINO


def test_what_is_measured_beside_the_cells(results):
    text = "\n".join(tables.beside(results))
    assert "layer, hidden 8 50 µs" in text
    assert f"{OURS} 330 MiB, PyTorch 6000 MiB" in text
    assert "1.2 s at time 2048" in text
    assert "10% in the middle" in text
    del results["beside"]
    assert len(tables.beside(results)) == 1


def test_the_readme_has_at_most_ten_rows():
    assert len(tables.HEADLINES) <= 10


def test_the_readme_says_how_many_goals_are_missed():
    root = Path(__file__).resolve().parents[2]
    table = (root / "docs/performance.md").read_text()
    missed, reached = table.count("| missed by"), table.count("| reached |")
    said = f"Missed goals: {missed} of {missed + reached}, by how much and why in"
    assert said in (root / "README.md").read_text()


def test_alternatives_stand_beside_the_default(results):
    head, _, *rows = tables.alternatives(results).splitlines()
    assert head.endswith(f"| the default | {' | '.join(ALTERNATIVES)} |")
    assert rows == ["| layer, inference | hidden 64 | 32 × 128 | 2 | 4 | 4 | 4 | 4 |"]


def test_publishing(results, tmp_path: Path):
    (tmp_path / "docs").mkdir()
    readme, page = tmp_path / "README.md", tmp_path / "docs" / "performance.md"
    for path in (readme, page):
        path.write_text(f"before\n{publish.BEGIN}\nstale\n{publish.END}\nafter\n")
    publish.publish(results, tmp_path)
    for path in (readme, page):
        text = path.read_text()
        assert text.startswith(f"before\n{publish.BEGIN}\n![")
        assert text.endswith(f"\n{publish.END}\nafter\n")
        assert "stale" not in text
        assert "torch 2.13.0+cpu, Python 3.11.7" in text
    plots = [tmp_path / path for path in publish.PLOTS.values()]
    first = [plot.read_bytes() for plot in plots]
    publish.publish(results, tmp_path)
    assert [plot.read_bytes() for plot in plots] == first
    page.write_text(f"{publish.BEGIN}\n")
    readme.write_text(f"{publish.BEGIN}\nstale\n{publish.END}\n")
    with pytest.raises(ValueError, match="expected one line"):
        publish.publish(results, tmp_path)
    assert "stale" in readme.read_text()
