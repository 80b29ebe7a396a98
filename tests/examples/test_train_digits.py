"""The training scripts: killed, started again, stopped early, and all three the same training."""

import dataclasses
import re
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import load_file

import config

PATIENCE_SECONDS = 240  # for a process to come so far, on a machine that does other things too


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """A run that nothing disturbed, and what it printed."""
    output = tmp_path_factory.mktemp("whole")
    return output, run("train_digits.py", output)


def kill_when(script, condition):
    """SIGKILL as soon as the condition holds, which must be before the process ends."""
    process, folder = script
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while not condition():
            assert process.is_alive(), (folder / "stderr").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.kill()
        process.join()


def complete(output: Path) -> set[int]:
    """The epochs of which there is a whole checkpoint."""
    found = output.glob("checkpoints/*/_CHECKPOINT_METADATA")
    return {int(path.parent.name) for path in found if path.parent.name.isdigit()}


def arrays(output: Path, epoch: int) -> dict[str, np.ndarray]:
    """Everything in a checkpoint, on the host."""
    path = output / "checkpoints" / str(epoch) / "default"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        saved = checkpointer.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
        tree = checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def test_a_killed_run_ends_bit_equal(whole, run, start, tmp_path):
    expected, _ = whole

    def writing_another():
        return complete(tmp_path) and any(tmp_path.glob("checkpoints/*tmp*"))

    kill_when(start("train_digits.py", tmp_path), writing_another)
    survived = complete(tmp_path)
    kill_when(start("train_digits.py", tmp_path), lambda: complete(tmp_path) - survived)
    printed = run("train_digits.py", tmp_path)

    assert f"epoch {max(survived):3}" not in printed  # it did go on, not start over
    ours, theirs = arrays(tmp_path, 5), arrays(expected, 5)
    assert ours.keys() == theirs.keys()
    assert any("optimizer" in name for name in ours)
    assert [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()] == []
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / name).read_bytes() == (expected / name).read_bytes()


def test_it_learns_and_leaves_what_it_promises(whole):
    output, printed = whole
    losses = [float(loss) for loss in re.findall(r"validation: loss (\S+),", printed)]
    assert len(losses) == 5
    assert losses == sorted(losses, reverse=True)
    assert complete(output) == {5}  # the best and the latest in one
    assert "digits/s" in printed
    (accuracy,) = re.findall(r"test accuracy (\S+)%", printed)
    assert float(accuracy) > 60  # 10 is chance
    assert (output / "digits.png").read_bytes().startswith(b"\x89PNG")
    assert not list(output.glob(".*"))


def test_it_stops_early_and_keeps_the_best(run, tmp_path):
    options = ("--patience", "2", "--learning-rate", "1.0", "--epochs", "30")
    printed = run("train_digits.py", tmp_path, *options)
    losses = [float(loss) for loss in re.findall(r"validation: loss (\S+),", printed)]
    best = 1 + int(np.argmin(losses))
    assert f"stopped early: best was epoch {best}" in printed
    assert len(losses) == best + 2 < 30
    assert complete(tmp_path) == {best, best + 2}
    model = (tmp_path / "model.safetensors").read_bytes()
    bias = load_file(tmp_path / "model.safetensors")["fc.bias"]
    np.testing.assert_array_equal(bias, arrays(tmp_path, best)["model.fc.bias.value"])

    again = run("train_digits.py", tmp_path, *options)
    assert "epoch  " not in again
    assert (tmp_path / "model.safetensors").read_bytes() == model


def test_other_choices_are_refused(whole):
    output, _ = whole
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    chosen = config.Config(output=output, hidden_dim=8, epochs=5)
    config.remember(chosen)
    with pytest.raises(SystemExit, match="expected the options that this run was started with"):
        config.remember(dataclasses.replace(chosen, seed=1))
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def test_pure_functions_train_the_same_model(whole, run, tmp_path):
    output, _ = whole
    run("train_digits_optax.py", tmp_path)
    ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path, output))
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        # The same sums, compiled as two programs: measured equal to the last bit.
        np.testing.assert_allclose(ours[name], weight, rtol=0, atol=1e-4, err_msg=name)


def test_linen_trains_as_well(run, tmp_path):
    printed = run("train_digits_linen.py", tmp_path)
    (accuracy,) = re.findall(r"test accuracy (\S+)%", printed)
    assert float(accuracy) > 60  # 10 is chance
    assert load_file(tmp_path / "model.safetensors")["attention.attn.weight"].shape == (16, 16)
