"""Nothing that a checkpoint holds is executed; what is no state dict is refused, in words."""

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

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
    with pytest.raises(ValueError, match=r"fc\.bias \(posix\.mkdir, which was not run\)"):
        fb.load(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # it would have run


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_bare_pickle_is_not_executed(protocol: int, tmp_path: Path) -> None:
    path, trace = tmp_path / "model.pt", tmp_path / "trace"
    path.write_bytes(pickle.dumps(Malicious(trace), protocol))
    with pytest.raises(ValueError, match=r"got posix\.mkdir.*Nothing in it was executed"):
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
    with pytest.raises(ValueError, match="holds a TorchScript program"):
        fb.load(tmp_path / "model.pt")


def test_tensors_that_numpy_cannot_hold(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"weight_ih_l0": torch.eye(3).to_sparse()}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"weight_ih_l0 \(a sparse tensor"):
        fb.load(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda torch: [torch.zeros(2)], r"got a list\. "),
        (lambda torch: 7, r"got an int\. "),
        (lambda torch: torch.zeros(2, 3), r"got one tensor of shape \(2, 3\), without a name\. "),
        (lambda torch: {"weight": torch.zeros(2, device="meta")}, r"\(a meta tensor, without num"),
        (lambda torch: {"weight": torch.eye(2).to_sparse()}, r"\(a sparse tensor\); save"),
    ],
)
def test_what_is_no_state_dict_is_said_in_english(make: Any, says: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(make(torch), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=says) as error:
        fb.load(tmp_path / "model.pt")
    assert "not run" not in str(error.value)


def test_the_reason_of_another_library_ends_with_one_stop() -> None:
    class Refuses:
        def __array__(self, *_: Any, **__: Any) -> np.ndarray:
            raise RuntimeError("no data!")

    with pytest.raises(ValueError, match=r"got Refuses: no data\.$"):
        fb.from_state_dict({"weight_ih_l0": Refuses()})


def test_pytorchs_files_need_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    model = fb.LSTM(2, 3, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    fb.save(model, tmp_path / "model.pt")
    back = fb.state_dict(fb.load(tmp_path / "model.pt"))
    for name, array in fb.state_dict(model).items():
        np.testing.assert_array_equal(back[name], array, strict=True)
