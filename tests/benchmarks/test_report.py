"""The tables are what the JSON says."""

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.cells import CONTESTANTS


def cell(mode, **milliseconds):
    """PyTorch takes 8 ms and flax.nnx 4; this library's take 2 unless said otherwise."""
    medians = {name: 2.0 for name in CONTESTANTS} | {"PyTorch": 8.0, "flax.nnx": 4.0} | milliseconds
    return {
        "batch": 1, "time": 16, "hidden_dim": 64, "mode": mode,
        "seconds": {
            name: {"median": m / 1e3, "quartile_1": 0.9 * m / 1e3, "quartile_3": m / 1e3}
            for name, m in medians.items()
        },
    }  # fmt: skip


@pytest.fixture
def results():
    return {
        "rounds": 5,
        "machine": {"cores": 2, "processor": "P", "versions": {"jax": "1"}},
        "matmul_flops_per_second": 2 * 16 * 2 * 192 * 256 * 1e3,  # inference: 1 ms
        "cells": [cell("inference", fused=1.0), cell("inference", scan=0.5), cell("training")],
        "notes": ["a note"],
    }


def test_ratios_are_to_the_best_of_ours(results):
    first, second, third = results["cells"]
    assert [report.best_of_ours(each) for each in (first, second)] == ["fused", "scan"]
    assert report.ratio(first, "PyTorch") == pytest.approx(8)
    assert report.ratio(second, "flax.nnx") == pytest.approx(8)
    assert report.ratio(third, "flax.nnx") == pytest.approx(2)
    assert report.floor(results, first) == pytest.approx(1e-3)


def test_summary(results):
    inference, training, spread, default = report.summary(results)
    assert "over 2 cells: 11.31× PyTorch (least 8.00×; the floor's 8.00×)" in inference
    assert "5.66× flax.nnx (least 4.00×; the floor's 4.00×)" in inference
    assert "over 1 cells: 4.00× PyTorch (least 4.00×; the floor's 3.43×)" in training
    assert "10% in the middle" in spread
    assert "scan in 1 of 3 cells (at most 4.00×)" in default
    assert "checkpointed in 0 of 3 cells (at most 1.00×)" in default


def test_table(results):
    head, _, *rows = report.table(results).splitlines()
    assert len(rows) == 3
    columns = [text.strip() for text in head.strip("|").split("|")]
    first = dict(zip(columns, (t.strip() for t in rows[0].strip("|").split("|")), strict=True))
    assert (first["mode"], first["batch × time"], first["PyTorch"]) == ("inference", "1 × 16", "8")
    assert (first["fused"], first["floor"], first["vs PyTorch"]) == ("**1**", "1", "8.00×")


def test_long_times_are_written_out(results):
    assert "| 12346 |" in report.table({**results, "cells": [cell("training", PyTorch=12345.6)]})


def test_readme(results, tmp_path: Path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nstale\n{report.END}\nafter\n")
    report.write_readme(results, readme)
    text = readme.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\nMilliseconds, medians of 5")
    assert text.endswith(f"- a note.\n{report.END}\nafter\n")
    assert "stale" not in text
    readme.write_text(f"{report.BEGIN}\n")
    with pytest.raises(ValueError, match="expected one line"):
        report.write_readme(results, readme)
    assert readme.read_text() == f"{report.BEGIN}\n"


def test_plot(results, tmp_path: Path):
    pytest.importorskip("matplotlib")
    report.write_plot(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
