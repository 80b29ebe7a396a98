"""`flax-bilstm convert` on what is no network of ours: it keeps every bit."""

import json
from pathlib import Path
from typing import Any

import pytest

from flax_bilstm import checkpoints
from flax_bilstm.cli import GOOD

torch = pytest.importorskip("torch")

from .command_line import run


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_any_state_dict_keeps_every_bit(ending: str, tmp_path: Path) -> None:
    tensors = {
        "a.weight": torch.randn(2, 3, 1).bfloat16(),
        "a.count": torch.tensor(7),
        "b": torch.tensor([True, False]),
        "c.scale": torch.tensor(-0.0, dtype=torch.float64),
        "d.ids": torch.arange(3, dtype=torch.int16),
    }
    torch.save(tensors, tmp_path / "a.pt")
    target = tmp_path / f"out{ending}"
    assert run("convert", tmp_path / "a.pt", target) == GOOD
    read = checkpoints.read(tmp_path / "a.pt").tensors
    back = checkpoints.read(target).tensors
    assert back.keys() == read.keys()
    for name, array in read.items():
        assert (back[name].shape, back[name].dtype) == (array.shape, array.dtype)
        assert back[name].tobytes() == array.tobytes()


class Additive(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = torch.nn.Linear(8, 8)
        self.v = torch.nn.Linear(8, 1, bias=False)


def like_ours(
    attention: Any = None, fc: Any = None, layers: int = 1, bidirectional: bool = True
) -> Any:
    """A network with an lstm, an attention and an fc, that is not the reference network."""
    square = torch.nn.ModuleDict({"attn": torch.nn.Linear(8, 8)})
    return torch.nn.ModuleDict(
        {
            "lstm": torch.nn.LSTM(3, 4, layers, bidirectional=bidirectional),
            "attention": attention or square,
            "fc": fc or torch.nn.Linear(8, 2),
        }
    )


OTHERS = {
    "additive": lambda: like_ours(Additive()),
    "to one": lambda: like_ours(torch.nn.ModuleDict({"attn": torch.nn.Linear(8, 1)})),
    "a layer": lambda: like_ours(torch.nn.Linear(8, 1)),
    "heads": lambda: like_ours(torch.nn.MultiheadAttention(8, 2)),
    "two vectors": lambda: like_ours(fc=torch.nn.Linear(16, 2)),
    "Sequential": lambda: like_ours(fc=torch.nn.Sequential(torch.nn.Linear(8, 2))),
    "layers": lambda: like_ours(layers=2),
    "one way": lambda: like_ours(fc=torch.nn.Linear(4, 2), bidirectional=False),
    "GRU": lambda: torch.nn.GRU(3, 4),
    "RNN": lambda: torch.nn.RNN(3, 4),
}


@pytest.mark.parametrize("title", OTHERS)
def test_a_network_that_is_only_named_like_ours(
    title: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the classes called BiLSTMWithAttention that people publish, hardly any is ours."""
    model = OTHERS[title]()
    torch.save(model.state_dict(), tmp_path / "a.pt")
    assert run("inspect", tmp_path / "a.pt", "--json") == GOOD
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["loads"]) == (None, None)
    assert run("convert", tmp_path / "a.pt", tmp_path / "a.safetensors") == GOOD
    assert run("convert", tmp_path / "a.safetensors", tmp_path / "b.pt") == GOOD
    back = torch.load(tmp_path / "b.pt", weights_only=True)
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], t) for name, t in model.state_dict().items())
