"""`flax-bilstm convert`, in process: what it writes, what it proves, and what it refuses."""

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm import checkpoints
from flax_bilstm.cli import BAD_INPUT, DIFFERS, GOOD, INTERRUPTED, main
from flax_bilstm.cli import verify as verification

from .. import processes
from .command_line import run

# Bits, words and files are judged here, not how programs round.
pytestmark = pytest.mark.usefixtures("quickly_compiled")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A network's checkpoint, readable without torch."""
    path = tmp_path / "source.safetensors"
    fb.save(fb.BiLSTMWithAttention(3, 4, 2, rngs=nnx.Rngs(0)), path)
    return path


def differences(printed: str) -> list[float]:
    return [float(value) for value in re.findall(r"difference.*: +(\S+)  \(float64\)", printed)]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".orbax"])
def test_convert_and_back(
    source: Path, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    target, back = tmp_path / f"target{suffix}", tmp_path / "back.safetensors"
    assert run("convert", source, target) == GOOD
    printed = capsys.readouterr()
    from_source, from_torch = differences(printed.out)
    assert from_source == 0
    assert 0 < from_torch < 1e-14  # two programs, so not the same rounding
    assert printed.err == ""
    if suffix == ".pt":
        tensors = torch.load(target, weights_only=True)
        assert list(tensors) == list(fb.state_dict(fb.load(source)))
    assert run("convert", target, back) == GOOD
    before, after = checkpoints.read(source).tensors, checkpoints.read(back).tensors
    assert set(before) == set(after)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], strict=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtypes_are_kept(dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    lstm = torch.nn.LSTM(2, 3, num_layers=2, bidirectional=True, proj_size=2)
    lstm = lstm.to(getattr(torch, dtype))
    torch.save(lstm.state_dict(), tmp_path / "lstm.pt")
    assert run("convert", tmp_path / "lstm.pt", tmp_path / "lstm.safetensors") == GOOD
    assert differences(capsys.readouterr().out)[0] == 0
    read = checkpoints.read(tmp_path / "lstm.safetensors").tensors
    for name, tensor in lstm.state_dict().items():
        assert read[name].dtype.name == dtype
        np.testing.assert_array_equal(read[name].astype(np.float64), tensor.double().numpy())


def test_works_without_torch(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(verification.importlib.util, "find_spec", lambda name: None)
    assert run("convert", source, tmp_path / "target.safetensors") == GOOD
    assert "PyTorch is not installed" in capsys.readouterr().out


def bad_inputs(source: Path) -> dict[str, tuple[Path, Path, str]]:
    """SRC, DST and what the message says, for everything that is refused."""
    folder = source.parent / "inputs"
    folder.mkdir()
    good = fb.state_dict(fb.load(source))
    write = checkpoints.FORMATS[".safetensors"].write
    write({"encoder.weight": good["fc.weight"]}, folder / "keys.safetensors")
    write(good | {"fc.bias": good["fc.bias"] * np.nan}, folder / "nan.safetensors")
    write(good | {"fc.bias": good["fc.bias"][:1]}, folder / "shape.safetensors")
    (folder / "damaged.safetensors").write_bytes(source.read_bytes()[:-4])
    (folder / "folder.safetensors").mkdir()
    (folder / "notes.txt").touch()
    target = folder / "target.safetensors"
    return {
        "missing": (folder / "nothing.safetensors", target, "found nothing"),
        "ending": (folder / "notes.txt", target, "got a file of an unknown kind"),
        "a folder": (folder / "folder.safetensors", target, "a folder with nothing in it"),
        "damaged": (folder / "damaged.safetensors", target, "damaged"),
        "other names": (folder / "keys.safetensors", folder / "other.orbax", "pass --into"),
        "not finite": (folder / "nan.safetensors", target, "not finite: fc.bias, 2 of 2 values"),
        "misshapen": (folder / "shape.safetensors", target, "fc.bias, expected (2,), got (1,)"),
        "target's ending": (source, folder / "target.onnx", "got .onnx"),
        "target's folder": (source, folder / "none" / "target.safetensors", "none to exist"),
        "target is a folder": (source, folder / "folder.safetensors", "exists already"),
        "same file": (source, source, "another name than SRC"),
    }


BAD_INPUTS = (
    "missing",
    "ending",
    "a folder",
    "damaged",
    "other names",
    "not finite",
    "misshapen",
    "target's ending",
    "target's folder",
    "target is a folder",
    "same file",
)


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_one_message_and_writes_nothing(
    case: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read, write, says = bad_inputs(source)[case]
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    assert run("convert", read, write) == BAD_INPUT
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.err.startswith("flax-bilstm: ")
    assert printed.err.count("flax-bilstm: ") == 1
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")} == before


def test_an_existing_target_is_replaced_only_on_request(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "target.safetensors"
    target.write_bytes(b"precious")
    assert run("convert", source, target) == BAD_INPUT
    assert "--overwrite" in capsys.readouterr().err
    assert target.read_bytes() == b"precious"
    assert run("convert", source, target, "--overwrite") == GOOD
    fb.load(target)


def test_the_same_file_under_two_names_is_refused(source: Path, tmp_path: Path) -> None:
    alias = tmp_path / "alias.safetensors"
    alias.symlink_to(source)
    assert run("convert", source, alias, "--overwrite") == BAD_INPUT
    assert alias.is_symlink()


def test_a_loop_of_symbolic_links_is_named(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = tmp_path / "loop.pt"
    loop.symlink_to(loop)
    for arguments in ((source, loop, "--overwrite"), (loop, tmp_path / "new.pt")):
        assert run("convert", *arguments) == BAD_INPUT
        said = capsys.readouterr().err
        assert said.startswith(f"flax-bilstm: {loop}: expected a "), said
        assert said.count("\n") == 1
        assert loop.is_symlink()


def test_a_folder_that_holds_the_source_is_not_replaced(source: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    fb.save(fb.load(source), run_folder)
    inside = source.rename(run_folder / "inside.safetensors")
    assert run("convert", inside, run_folder, "--overwrite") == BAD_INPUT
    assert inside.exists()


@pytest.mark.parametrize("fault", ["a bit", "the forward pass"])
def test_what_differs_is_not_kept(
    fault: str,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if fault == "a bit":
        write = checkpoints.FORMATS[".safetensors"].write

        def faulty_write(arrays: dict[str, np.ndarray], path: Path) -> None:
            write(arrays | {"fc.bias": np.nextafter(arrays["fc.bias"], 9)}, path)

        format_ = checkpoints.FORMATS[".safetensors"]._replace(write=faulty_write)
        monkeypatch.setitem(checkpoints.FORMATS, ".safetensors", format_)
    else:
        pytest.importorskip("torch")
        torch_forward = verification.torch_forward
        monkeypatch.setattr(verification, "torch_forward", lambda *a: torch_forward(*a) + 1e-11)
    assert run("convert", source, tmp_path / "target.safetensors") == DIFFERS
    printed = capsys.readouterr()
    assert ("fc.bias" in printed.err) == (fault == "a bit")
    assert list(tmp_path.iterdir()) == [source]


def test_a_source_that_changes_meanwhile_is_not_converted(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    differing = verification.differing

    def then_change(*sides: Any) -> Any:
        found = differing(*sides)
        fb.save(fb.BiLSTMWithAttention(3, 4, 2, rngs=nnx.Rngs(1)), source)
        return found

    monkeypatch.setattr(verification, "differing", then_change)
    assert run("convert", source, tmp_path / "target.safetensors") == BAD_INPUT
    assert f"SRC: {source} changed while it was converted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [source]


def test_as_a_module(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flax_bilstm", "convert", str(source)]
    good = [*command, str(tmp_path / "target.safetensors")]
    done = subprocess.run(good, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (GOOD, "")
    bad = [*command, str(tmp_path / "none" / "target.safetensors")]
    done = subprocess.run(bad, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == BAD_INPUT
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(
    number: int, source: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    command = ["flax-bilstm", "convert", str(source), str(tmp_path / "new.orbax")]
    program = f"""
import signal
sys.argv = {command!r}
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job has not
from flax_bilstm import __main__
from flax_bilstm.cli import convert as conversion
conversion.verification.verify = lambda *_: os.kill(os.getpid(), {int(number)})  # all is written
__main__.run()
"""
    done = processes.run(program, tmp_path_factory.mktemp("process"), {})
    assert (done.returncode, done.stderr) == (INTERRUPTED, "flax-bilstm: interrupted.\n")
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("arguments", [(), ("convert",), ("convert", "a.pt"), ("transmogrify",)])
def test_usage_errors(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as info:
        main(arguments)
    assert info.value.code == BAD_INPUT
