import json
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity import cli
from parity.place import Case
from parity.proof import digits, published
from parity.report import Report
from parity.results import Row
from parity.sides.optimizers import SGD


@pytest.fixture
def small(monkeypatch, quickly_compiled):
    """One shape and one optimizer: the rest is compiled elsewhere, and judged there."""
    monkeypatch.setattr(
        published, "SHAPES", (published.Shape(2, 3), published.Shape(2, 3, padded=True))
    )
    monkeypatch.setattr(published, "OPTIMIZERS", (SGD,))


@pytest.fixture
def checkpoint(tmp_path, network):
    path = tmp_path / "model.pt"
    torch.save(network.reference.state_dict(), path)
    return path


def run(*arguments):
    return cli.main([*map(str, arguments), "--seeds", "1", "--steps", "1", "--jobs", "1"])


def test_a_good_checkpoint_exits_0_and_writes_the_report(small, checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(checkpoint, "--output", out) == 0
    assert "PASSED" in capsys.readouterr().out
    assert Report.from_json((out / "report.json").read_text()).passed
    assert "PASSED" in (out / "report.md").read_text()


def test_safetensors_and_plain_lstms_are_taken_too(small, tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    lstm = torch.nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    path = tmp_path / "lstm.safetensors"
    save_file(lstm.double().state_dict(), path)
    assert run(path, "--output", tmp_path / "out") == 0


def test_a_difference_exits_1(small, checkpoint, tmp_path, capsys, monkeypatch):
    load = published._load_reference

    def tampered(path, flax_model):
        model = load(path, flax_model)
        with torch.no_grad():
            model.fc.bias += 1e-6
        return model

    monkeypatch.setattr(published, "_load_reference", tampered)  # in this process: --jobs 1
    assert run(checkpoint, "--output", tmp_path / "out") == 1
    assert "first fc.bias (model.pt" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "report.json").read_text())["passed"] is False


BAD_FILES = {
    "missing.pt": None,
    "model.txt": b"text",
    "damaged.pt": b"not a checkpoint",
    "damaged.safetensors": b"\x00" * 20,
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_input_exits_2_with_one_message_and_no_report(name, tmp_path, capsys):
    path = tmp_path / name
    if BAD_FILES[name] is not None:
        path.write_bytes(BAD_FILES[name])
    assert run(path, "--output", tmp_path / "out") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("parity: ")
    assert name in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_with_a_nan_is_bad_input(tmp_path, network, capsys):
    weights = {name: tensor.clone() for name, tensor in network.reference.state_dict().items()}
    weights["fc.weight"][0, 1] = np.nan
    torch.save(weights, tmp_path / "nan.pt")
    assert run(tmp_path / "nan.pt", "--output", tmp_path / "out") == 2
    assert "fc.weight" in capsys.readouterr().err


def test_an_output_that_is_a_file_is_bad_input(checkpoint, capsys):
    assert run(checkpoint, "--output", checkpoint) == 2
    assert "parity: " in capsys.readouterr().err


@pytest.mark.parametrize("count", ["0", "1000000000", "9" * 5_000])
@pytest.mark.parametrize(
    ("option", "most"), [("--seeds", "10,000"), ("--steps", "10,000"), ("--jobs", "1,024")]
)
def test_counts_below_one_or_beyond_any_memory_are_refused(option, most, count, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([option, count])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert f"expected a whole number from 1 to {most}, got {count[:200]}" in error
    assert len(error) < 2_000


def test_without_a_checkpoint_the_whole_proof_runs(tmp_path, monkeypatch, capsys):
    """Which proof that is, test_proof and test_digits see; here, that its parts come together."""
    report = Report((Row(Case("digits", "trained"), passed=True),), {})

    monkeypatch.setattr(published, "whole", lambda seeds, steps, jobs, progress: report)
    monkeypatch.setattr(digits, "draw_losses", lambda report, path: path.write_bytes(b"plot"))
    assert run("--output", tmp_path / "out") == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "loss.png",
        "report.html",
        "report.json",
        "report.md",
    }


def test_as_a_module_in_a_process(tmp_path):
    """The exit status reaches the shell, with nothing but the message on standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "parity", str(tmp_path / "missing.pt")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "missing.pt" in done.stderr
