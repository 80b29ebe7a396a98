"""Nothing that a checkpoint holds is executed; what is no state dict is refused, in words."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

import flax_bilstm as fb


class Malicious:
    """Unpickled, it creates the file `trace`."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_checkpoint_is_executed(zipped: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path, trace = tmp_path / "model.pt", tmp_path / "trace"
    torch.save({"fc.bias": Malicious(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"holds posix.mkdir.*nothing in it was executed") as info:
        fb.load(path)
    assert not trace.exists()
    assert "torch.save(model.state_dict(), path)" in str(info.value)
    torch.load(path, weights_only=False)
    assert trace.exists()  # it would have run


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_bare_pickle_is_not_executed(protocol: int, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path, trace = tmp_path / "model.pt", tmp_path / "trace"
    path.write_bytes(pickle.dumps(Malicious(trace), protocol))
    with pytest.raises(ValueError, match="expected a"):
        fb.load(path)
    assert not trace.exists()


def test_a_pickled_model_is_refused_with_what_to_do_instead(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.LSTM(2, 3), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"LSTM.*torch\.save\(model\.state_dict\(\), path\)"):
        fb.load(tmp_path / "model.pt")


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="holds TorchScript"):
        fb.load(tmp_path / "model.pt")


def test_tensors_that_numpy_cannot_hold(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"weight_ih_l0": torch.eye(3).to_sparse()}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"dense tensors.*Sparse"):
        fb.load(tmp_path / "model.pt")


def test_a_list_is_no_state_dict(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save([torch.zeros(2)], tmp_path / "model.pt")
    with pytest.raises(ValueError, match="got a list"):
        fb.load(tmp_path / "model.pt")


def test_without_torch_its_files_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(ImportError, match=r"flax-bilstm\[torch\]"):
        fb.load(tmp_path / "model.pt")
