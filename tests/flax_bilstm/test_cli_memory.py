"""What the command needs for large checkpoints: memory like their size, time like their depth."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm.conversion.weights import check_state_dict

MEGABYTES = 32
RUN = """
import resource, sys
from flax_bilstm.__main__ import run
try:
    run()
except SystemExit as ended:
    assert ended.code == 0, ended.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)
"""


def checkpoint(path: Path, hidden: int) -> Path:
    """Two layers of one direction: 64 · hidden² bytes."""
    sizes = {"weight_ih": (4 * hidden, hidden), "weight_hh": (4 * hidden, hidden)}
    sizes |= {"bias_ih": (4 * hidden,), "bias_hh": (4 * hidden,)}
    from flax_bilstm.checkpoints import torch_writing

    torch_writing.write(
        {f"{name}_l{k}": np.full(size, 0.01, "f4") for k in (0, 1) for name, size in sizes.items()},
        path,
    )
    return path


def peak(*arguments: str | Path) -> int:
    """The most memory, in MiB, that the command has needed."""
    ended = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, arguments)], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return int(ended.stderr.split()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="resource and malloc differ")
def test_memory_of_convert(tmp_path: Path) -> None:
    """Above that for a tiny checkpoint: 4 times the tensors, where it once was 8."""
    small, large = (checkpoint(tmp_path / f"{h}.pt", h) for h in (2, 724))
    base, most = (
        peak("convert", each, tmp_path / f"{each.stem}.safetensors") for each in (small, large)
    )
    assert most - base < 5 * MEGABYTES


def test_nothing_is_drawn_to_learn_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key that is drawn under a trace takes time in proportion to those before."""
    tensors = fb.state_dict(fb.LSTM(2, 3, num_layers=3, bidirectional=True, rngs=nnx.Rngs(0)))

    def count(stream: nnx.RngStream) -> None:
        raise AssertionError("a key was drawn")

    monkeypatch.setattr(nnx.RngStream, "__call__", count)
    assert set(check_state_dict(tensors)) == set(tensors)
