"""`flax-bilstm convert` on what people really have: training checkpoints, prefixes, optimizers."""

import copy
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm import checkpoints
from flax_bilstm.checkpoints import orbax_folder, orbax_writing
from flax_bilstm.cli import BAD_INPUT, DIFFERS, GOOD

torch = pytest.importorskip("torch")
torch_ref = pytest.importorskip("torch_ref")

from .command_line import run

# Bits, words and files are judged here, not how programs round.
pytestmark = pytest.mark.usefixtures("quickly_compiled")


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Any]:
    """A network after three steps of AdamW, and its optimizer."""
    torch.manual_seed(0)
    model = torch_ref.BiLSTMWithAttention(3, 4, 2)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(2, 5, 3)).square().mean().backward()
        optimizer.step()
    return model, optimizer


def under(prefix: str, state_dict: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: tensor for name, tensor in state_dict.items()}


@pytest.fixture
def source(trained: tuple[Any, Any], tmp_path: Path) -> Path:
    """Lightning's file, of a data-parallel network with another one beside it."""
    model, optimizer = trained
    path = tmp_path / "epoch=3.ckpt"
    content = {
        "epoch": 3,
        "global_step": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": under("model.module.", model.state_dict()),
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "hyper_parameters": {"hidden_dim": 4},
    }
    torch.save(content, path)
    return path


def assert_is(model: Any, expected: Any) -> None:
    arrays = fb.state_dict(model)
    assert set(arrays) == set(expected.state_dict())
    for name, tensor in expected.state_dict().items():
        np.testing.assert_array_equal(arrays[name], tensor.numpy(), strict=True)


@pytest.mark.parametrize("target", ["model.safetensors", "model.bin", "run"])
def test_a_lightning_checkpoint_to_any_format(
    target: str,
    source: Path,
    trained: tuple[Any, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("convert", source, tmp_path / target) == GOOD
    assert_is(fb.load(tmp_path / target), trained[0])
    printed = capsys.readouterr().out
    assert "unwrapped: state_dict" in printed
    assert "stripped: model. module." in printed
    assert "beside it: epoch, global_step, pytorch-lightning_version, optimizer_states" in printed
    assert "BiLSTMWithAttention(input_dim=3, hidden_dim=4, output_dim=2, score=dot), 12" in printed
    assert ("left out: the optimizer's state" in printed) == (target != "run")


def test_the_library_reads_it_too(source: Path, trained: tuple[Any, Any]) -> None:
    assert_is(fb.load(source), trained[0])


def test_the_optimizer_goes_on_from_an_orbax_directory(
    source: Path, trained: tuple[Any, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import orbax.checkpoint as ocp

    torch_model, torch_optimizer = trained
    assert run("convert", source, tmp_path / "run") == GOOD
    said = "optax.adamw(learning_rate=0.01, b1=0.9, b2=0.999, eps=1e-08, weight_decay=0.01)"
    assert f"optimizer: {said}" in capsys.readouterr().out
    # What a training loop does that was told so:
    model = fb.BiLSTMWithAttention(3, 4, 2, rngs=nnx.Rngs(1))
    tx = optax.adamw(learning_rate=0.01, b1=0.9, b2=0.999, eps=1e-08, weight_decay=0.01)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    state = {"model": nnx.state(model), "optimizer": nnx.state(optimizer)}
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "run", state)
    nnx.update(model, restored["model"])
    nnx.update(optimizer, restored["optimizer"])
    assert_is(model, torch_model)
    assert (optimizer.step[...], optimizer.opt_state[0].count[...]) == (3, 3)
    for moment, field in {"exp_avg": "mu", "exp_avg_sq": "nu"}.items():
        got = getattr(optimizer.opt_state[0], field)["fc"]["kernel"][...]
        expected = torch_optimizer.state[torch_model.fc.weight][moment]
        np.testing.assert_array_equal(got.T, expected.numpy(), strict=True)


def test_an_optimizer_that_optax_lacks(
    trained: tuple[Any, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = trained
    optimizer = torch.optim.Adagrad(model.parameters()).state_dict()
    path = tmp_path / "training.pt"
    torch.save({"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer}, path)
    assert run("convert", path, tmp_path / "run") == BAD_INPUT
    printed = capsys.readouterr()
    assert "Adam, AdamW, SGD, RMSprop or Adadelta" in printed.err
    assert "--no-optimizer" in printed.err
    assert list(tmp_path.iterdir()) == [path]
    assert run("convert", path, tmp_path / "run", "--no-optimizer") == GOOD
    assert "optimizer" not in orbax_folder.read(tmp_path / "run").tree
    assert "left out: the optimizer's state" in capsys.readouterr().out


def test_an_optimizer_state_that_changed_on_its_way_is_not_kept(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write = orbax_writing.write

    def faulty(arrays: Any, path: Path, optimizer: Any) -> None:
        write(arrays, path, jax.tree.map(lambda a: a + a.dtype.type(1), optimizer))

    monkeypatch.setattr(orbax_writing, "write", faulty)
    assert run("convert", source, tmp_path / "run") == DIFFERS
    assert "opt_state.0.count" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [source]


def test_prefix_and_dtype(
    trained: tuple[Any, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = trained
    larger = {"embed.weight": torch.ones(2), **under("encoder.", model.state_dict())}
    path, target = tmp_path / "larger.pth", tmp_path / "half.safetensors"
    torch.save(under("_orig_mod.", larger), path)
    with pytest.raises(ValueError, match=r"there is one under encoder\. \(load takes prefix="):
        fb.load(path)
    assert run("convert", path, tmp_path / "whole.safetensors") == GOOD
    assert "no forward pass was compared" in capsys.readouterr().out
    assert len(checkpoints.read(tmp_path / "whole.safetensors").tensors) == 13
    assert run("convert", path, target, "--prefix", "encoder.", "--dtype", "bfloat16") == GOOD
    printed = capsys.readouterr().out
    assert "left out: 1 outside of encoder. (_orig_mod.embed.weight)" in printed
    assert "stripped: _orig_mod. encoder." in printed
    for name, array in checkpoints.read(target).tensors.items():
        expected = model.state_dict()[name].bfloat16().float().numpy()
        assert array.dtype == jnp.bfloat16
        np.testing.assert_array_equal(array.astype(np.float32), expected)


def test_moments_are_cast_too(source: Path, tmp_path: Path) -> None:
    assert run("convert", source, tmp_path / "run", "--dtype", "float64") == GOOD
    tree = orbax_folder.read(tmp_path / "run").tree["optimizer"]["opt_state"]["0"]
    assert tree["mu"]["fc"]["bias"]["value"].dtype == np.float64
    assert tree["count"]["value"].dtype == np.int32


def test_a_cast_that_overflows_is_refused(
    trained: tuple[Any, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = trained
    path = tmp_path / "large.pt"
    torch.save(model.state_dict() | {"fc.bias": torch.tensor([1e6, 1.0])}, path)
    assert run("convert", path, tmp_path / "half.pt", "--dtype", "float16") == BAD_INPUT
    assert "--dtype: fc.bias has values that overflow in float16" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


def test_moments_that_overflow_are_refused(
    trained: tuple[Any, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, optimizer = trained
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0]["exp_avg"][0, 0] = 1e30
    path = tmp_path / "large.pt"
    torch.save({"state_dict": model.state_dict(), "optimizer": state}, path)
    assert run("convert", path, tmp_path / "half", "--dtype", "float16") == BAD_INPUT
    assert "moments have values that overflow in float16" in capsys.readouterr().err
    state["state"][0]["exp_avg"] = state["state"][0]["exp_avg"].double() * 1e20
    with pytest.raises(ValueError, match=r"exp_avg of lstm\.weight_ih_l0 has values that overflow"):
        fb.optimizer_from_torch(fb.from_state_dict(model.state_dict()), state)
    assert list(tmp_path.iterdir()) == [path]


def test_dry_run_keeps_nothing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "model.safetensors"
    assert run("convert", source, target, "--dry-run") == GOOD
    printed = capsys.readouterr().out
    assert "largest forward difference, DST against PyTorch" in printed
    assert "would be written (dry run)" in printed
    assert list(tmp_path.iterdir()) == [source]
    target.write_bytes(b"precious")
    assert run("convert", source, target, "--dry-run", "--overwrite") == GOOD
    assert target.read_bytes() == b"precious"


def test_moments_of_another_module_are_not_taken(tmp_path: Path) -> None:
    """Encoder and decoder of one shape: `--prefix` takes the encoder's, by name."""
    torch.manual_seed(0)
    both = torch.nn.ModuleDict({"decoder": torch.nn.LSTM(2, 2), "encoder": torch.nn.LSTM(2, 2)})
    optimizer = torch.optim.Adam(both.named_parameters())
    x = torch.randn(3, 1, 2)
    (both["encoder"](x)[0].sum() + both["decoder"](2 * x)[0].sum()).backward()
    optimizer.step()
    torch.save({"model": both.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    assert run("convert", tmp_path / "a.pt", tmp_path / "run", "--prefix", "encoder.") == GOOD
    tree = orbax_folder.read(tmp_path / "run").tree["optimizer"]["opt_state"]["0"]["mu"]
    moment = tree["layers"]["0"]["forward"]["kernel_ih"]["value"]
    expected = optimizer.state[both["encoder"].weight_ih_l0]["exp_avg"].numpy()
    np.testing.assert_array_equal(moment.T, expected)


@pytest.mark.parametrize("score", ["dot", "general"])
def test_a_report_names_the_forward_pass_and_score_chooses_it(
    score: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = torch_ref.BiLSTMWithAttention(3, 4, 2, score)
    model.attention.attn.weight.data.mul_(8)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    options = ("--score", score)
    assert run("convert", tmp_path / "a.pt", tmp_path / "a.safetensors", *options) == GOOD
    assert f"with score={score}" in capsys.readouterr().out
    assert run("export", tmp_path / "a.pt", tmp_path / "a.jax", *options, "--lengths") == GOOD
    assert f"with score={score}" in capsys.readouterr().out
    artifact = jax.export.deserialize(bytearray((tmp_path / "a.jax").read_bytes()))
    x = np.random.default_rng(0).standard_normal((2, 5, 3), dtype=np.float32)
    outputs = artifact.call(x, np.full(2, 5, np.int32))
    np.testing.assert_allclose(outputs, model(torch.tensor(x)).detach().numpy(), atol=1e-6)


def test_mixed_dtypes_are_cast(tmp_path: Path) -> None:
    model = torch_ref.BiLSTMWithAttention(3, 4, 2)
    mixed = {n: t.half() if n.startswith("lstm") else t for n, t in model.state_dict().items()}
    torch.save(mixed, tmp_path / "mixed.pt")
    target = tmp_path / "a.safetensors"
    assert run("convert", tmp_path / "mixed.pt", target) == BAD_INPUT
    assert run("convert", tmp_path / "mixed.pt", target, "--dtype", "float32") == GOOD
    back = checkpoints.read(target).tensors
    assert {array.dtype for array in back.values()} == {np.dtype(np.float32)}
