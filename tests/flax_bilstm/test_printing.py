"""Printing neither fails a command nor lets a text take the terminal over."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm import cli
from flax_bilstm.cli import printing


def test_control_characters_are_escaped_and_lines_are_cut() -> None:
    stream = io.TextIOWrapper(raw := io.BytesIO(), encoding="ascii")
    assert printing.write("a\x1b[31m\u20ac\ud800\nb", stream)
    assert raw.getvalue() == b"a\\x1b[31m\\u20ac\\ud800\nb\n"


def test_an_error_that_is_not_ours_is_one_line_and_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("what")

    monkeypatch.setattr(cli.inspection, "inspect", fail)
    assert cli.main(["inspect", "x.pt"]) == cli.BAD_INPUT
    assert capsys.readouterr().err == "flax-bilstm: unexpected KeyError: 'what'\n"


@pytest.mark.parametrize(("output", "code"), [("/dev/full", 2), ("closed pipe", 0)])
def test_where_the_report_goes_nowhere(output: str, code: int, tmp_path: Path) -> None:
    fb.save(fb.LSTM(2, 3, rngs=nnx.Rngs(0)), tmp_path / "m.safetensors")
    command = [sys.executable, "-m", "flax_bilstm", "inspect", str(tmp_path / "m.safetensors")]
    if output == "closed pipe":
        done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert done.stdout is not None
        assert done.stderr is not None
        done.stdout.close()
        errors = done.stderr.read()
        done.stderr.close()
        done.wait()
        assert errors == ""
    else:
        with Path(output).open("w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert "could not be printed" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert done.returncode == code
