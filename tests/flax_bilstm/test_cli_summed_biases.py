"""`convert --summed-biases`: Flax's own cells, which have one bias for torch's two."""

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax_bilstm.checkpoints import orbax_folder
from flax_bilstm.cli import BAD_INPUT, GOOD, main

PORT = """
from flax import nnx

class Port(nnx.Module):
    def __init__(self):
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(3, 2, rngs=nnx.Rngs(0)))
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A checkpoint of an nn.LSTM and where to write; `cell_port:Port` can be imported."""
    (tmp_path / "cell_port.py").write_text(PORT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cell_port", raising=False)
    torch.manual_seed(0)
    lstm = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(3, 2)})
    torch.save(lstm.state_dict(), tmp_path / "run.pt")
    return str(tmp_path / "run.pt"), str(tmp_path / "run")


def test_the_bias_is_the_sum(files: tuple[str, str]) -> None:
    cell = ("--summed-biases", "rnn.cell=lstm:_l0")
    assert main(["convert", *files, "--into", "cell_port:Port", *cell]) == GOOD
    tensors = torch.load(files[0])
    model = orbax_folder.read(Path(files[1])).tree["model"]
    bias = tensors["lstm.bias_ih_l0"] + tensors["lstm.bias_hh_l0"]
    np.testing.assert_array_equal(model["rnn.cell.dense_h.bias"], bias.numpy())


@pytest.mark.parametrize("written", ["rnn.cell", "=lstm:_l0", "rnn.cell="])
def test_half_a_pair(
    written: str, files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--into", "cell_port:Port", "--summed-biases", written)
    assert main(["convert", *files, *options]) == BAD_INPUT
    expected = f"--summed-biases: expected FLAX=TORCH:SUFFIX, got {written!r}."
    assert expected in capsys.readouterr().err
    assert not Path(files[1]).exists()
