"""What the command needs for large checkpoints: memory like their size, time like their depth."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm.checkpoints import torch_writing
from flax_bilstm.cli import verify
from flax_bilstm.cli.torch_forward import torch_forward
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
    rng = np.random.default_rng(0)
    torch_writing.write(
        {
            f"{name}_l{k}": rng.uniform(-0.01, 0.01, size).astype("f4")
            for k in (0, 1)
            for name, size in sizes.items()
        },
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
@pytest.mark.parametrize("ending", [".safetensors", ".orbax"])
def test_memory_of_convert(ending: str, tmp_path: Path) -> None:
    """At most 3 times the tensors above that for a tiny checkpoint (measured: 1.5, Orbax 2.4)."""
    small, large = (checkpoint(tmp_path / f"{h}.pt", h) for h in (2, 724))
    base, most = (peak("convert", each, each.with_suffix(ending)) for each in (small, large))
    assert most - base < 3 * MEGABYTES


@pytest.mark.skipif(sys.platform != "linux", reason="resource and malloc differ")
def test_memory_of_export(tmp_path: Path) -> None:
    """5 times the tensors, where it once was 11.6: XLA copies weights in the program."""
    pytest.importorskip("flatbuffers")
    small, large = (checkpoint(tmp_path / f"{h}.pt", h) for h in (2, 724))
    base, most = (peak("export", each, each.with_suffix(".jax")) for each in (small, large))
    assert most - base < 6 * MEGABYTES


def test_layer_by_layer_is_the_whole_forward_pass() -> None:
    lstm = fb.LSTM(2, 4, num_layers=3, bidirectional=True, proj_size=3, rngs=nnx.Rngs(0))
    tensors = fb.state_dict(lstm)
    x = verify.example(tensors)
    with jax.enable_x64(True):
        whole = fb.from_state_dict(tensors, param_dtype=jnp.float64)
        outputs, _ = whole(x)
    np.testing.assert_allclose(verify.forward(tensors, x), outputs, rtol=1e-14, atol=1e-16)
    torch = pytest.importorskip("torch")
    module = torch.nn.LSTM(
        2, 4, num_layers=3, bidirectional=True, proj_size=3, batch_first=True, dtype=torch.float64
    )
    module.load_state_dict({n: torch.tensor(a, dtype=torch.float64) for n, a in tensors.items()})
    expected, _ = module(torch.from_numpy(x))
    np.testing.assert_array_equal(torch_forward(tensors, x), expected.detach())


def test_nothing_is_drawn_to_learn_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key that is drawn under a trace takes time in proportion to those before."""
    tensors = fb.state_dict(fb.LSTM(2, 3, num_layers=3, bidirectional=True, rngs=nnx.Rngs(0)))

    def count(stream: nnx.RngStream) -> None:
        raise AssertionError("a key was drawn")

    monkeypatch.setattr(nnx.RngStream, "__call__", count)
    assert set(check_state_dict(tensors)) == set(tensors)
