"""`flax-bilstm inspect`: what a checkpoint holds, and what keeps it from being loaded."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm import checkpoints
from flax_bilstm.cli import BAD_INPUT, DIFFERS, GOOD, main


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return fb.state_dict(fb.BiLSTMWithAttention(3, 4, 2, rngs=nnx.Rngs(0)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def write(arrays: dict[str, np.ndarray], path: Path) -> None:
    checkpoints.SAFETENSORS.write(arrays, path)


def inspect(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["inspect", str(path), "--json"])
    return code, json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def test_a_good_checkpoint(
    arrays: dict[str, np.ndarray], path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(arrays, path)
    code, found = inspect(path, capsys)
    assert code == GOOD
    assert found["loads"]
    assert found["problems"] == []
    assert found["model"] == {
        "class": "BiLSTMWithAttention",
        "input_dim": 3,
        "hidden_dim": 4,
        "output_dim": 2,
    }
    assert found["numbers"] == sum(array.size for array in arrays.values())
    assert found["bytes"] == 4 * found["numbers"]
    tensors = {tensor.pop("name"): tensor for tensor in found["tensors"]}
    assert set(tensors) == set(arrays)
    for name, array in arrays.items():
        assert tensors[name] == {
            "shape": list(array.shape),
            "dtype": "float32",
            "norm": pytest.approx(np.sqrt(np.sum(array.astype(np.float64) ** 2)), rel=1e-12),
            "not_finite": 0,
            "unused": name.startswith("attention."),
        }


def test_for_people(
    arrays: dict[str, np.ndarray], path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(arrays, path)
    assert main(["inspect", str(path)]) == GOOD
    printed = capsys.readouterr().out
    assert "BiLSTMWithAttention(input_dim=3, hidden_dim=4, output_dim=2)" in printed
    (line,) = (line for line in printed.splitlines() if "attention.attn.weight" in line)
    assert line.split()[:5] == ["attention.attn.weight", "8", "×", "8", "float32"]
    assert line.endswith("unused by the forward pass")
    assert printed.endswith("loads: yes\n")


def test_all_that_keeps_it_from_loading(
    arrays: dict[str, np.ndarray], path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays["fc.bias"] = np.array([np.nan, np.inf], np.float32)
    arrays["extra"] = np.ones(1, np.float32)
    arrays["lstm.bias_ih_l0"] = arrays["lstm.bias_ih_l0"].astype(np.float16)
    del arrays["fc.weight"], arrays["attention.attn.bias"]
    arrays["fc.weight"] = np.ones((2, 7), np.float32)
    write(arrays, path)
    code, found = inspect(path, capsys)
    assert code == DIFFERS
    assert not found["loads"]
    problems = "\n".join(found["problems"])
    assert len(found["problems"]) == 5
    for said in (
        "missing: attention.attn.bias",
        "shape: fc.weight, expected (2, 8), got (2, 7)",
        "not finite: fc.bias, 2 of 2 values",
        "unexpected: extra",
        "lstm.bias_ih_l0, expected float32, got float16",
    ):
        assert said in problems
    (bias,) = (tensor for tensor in found["tensors"] if tensor["name"] == "fc.bias")
    assert (bias["norm"], bias["not_finite"]) == (None, 2)
    assert main(["inspect", str(path)]) == DIFFERS
    printed = capsys.readouterr().out
    assert "2 not finite" in printed
    assert problems in printed


def test_of_another_model(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write({"conv.weight": np.ones((2, 2), np.int32), "scale": np.array(3.0)}, path)
    code, found = inspect(path, capsys)
    assert code == GOOD
    assert (found["model"], found["loads"], found["problems"]) == (None, None, [])
    assert {tensor["name"]: tensor["norm"] for tensor in found["tensors"]} == {
        "conv.weight": 2.0,
        "scale": 3.0,
    }
    assert found["layers"] == [
        {
            "name": "conv",
            "one_of": ["Linear", "Embedding"],
            "sizes": {"in_features": 2, "out_features": 2, "bias": False},
        }
    ]
    assert main(["inspect", str(path)]) == GOOD
    assert "fb.load(FILE, into=module)" in capsys.readouterr().out


def test_wrappings_and_the_optimizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    lstm = torch.nn.LSTM(2, 3)
    training = {"model": {f"module.{k}": v for k, v in lstm.state_dict().items()}, "epoch": 3}
    for optimizer, said in {
        torch.optim.SGD(lstm.parameters(), 0.5): "optax.sgd(learning_rate=0.5)",
        torch.optim.Rprop(lstm.parameters()): "expected the state of torch.optim.Adam",
        torch.optim.SGD([lstm.weight_ih_l0], 0.5): "expected the state for 4 parameters",
    }.items():
        torch.save({**training, "optimizer": optimizer.state_dict()}, tmp_path / "model.pt")
        code, found = inspect(tmp_path / "model.pt", capsys)
        assert code == GOOD
        assert found["optimizer"].startswith(said)
        assert found["model"]["class"] == "LSTM"
        assert found["notes"] == [
            "unwrapped: model",
            "beside it: epoch, optimizer",
            "stripped: module.",
        ]


def test_what_cannot_be_read(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_bytes(b"not tensors")
    assert main(["inspect", str(path), "--json"]) == BAD_INPUT
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("flax-bilstm: ")


@pytest.mark.parametrize("scale", [1e200, 1.7e308, 5e-310])
def test_weights_whose_squares_or_sums_overflow(
    scale: float,
    arrays: dict[str, np.ndarray],
    path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    signs = {name: np.sign(array.astype(np.float64)) for name, array in arrays.items()}
    write({name: sign * scale for name, sign in signs.items()}, path)
    code, found = inspect(path, capsys)
    assert (code, found["loads"]) == (GOOD, True)
    norms = {tensor["name"]: tensor["norm"] for tensor in found["tensors"]}
    norm = scale * 48**0.5  # of 48 values, ±scale each
    wanted = pytest.approx(norm, rel=1e-9) if np.isfinite(norm) else None
    assert norms["lstm.weight_ih_l0"] == wanted
    assert main(["convert", str(path), str(path.with_suffix(".pt"))]) == GOOD


def test_memory_is_that_of_no_whole_tensor(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write({"table": np.ones((2**11, 2**11), np.float32)}, path)  # 16 MiB, mapped
    tracemalloc.start()
    try:
        code, found = inspect(path, capsys)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (code, found["tensors"][0]["norm"]) == (GOOD, 2.0**11)
    assert peak < 8 * 2**20


def test_what_is_surely_a_buffer(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    norm = {f"bn.{name}": np.ones(3, np.float32) for name in ("weight", "running_mean", "bias")}
    write(norm | {"bn.running_var": np.ones(3, np.float32), "ids": np.arange(3)}, path)
    assert main(["inspect", str(path)]) == GOOD
    lines = capsys.readouterr().out.splitlines()
    found = {line.split()[0] for line in lines if line.endswith("buffer")}
    assert found == {"bn.running_mean", "bn.running_var", "ids"}
