"""Files: what goes in comes out bit for bit, and is there whole or not at all."""

import errno
import os
import resource
import stat
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm import checkpoints

FORMATS = tuple(checkpoints.FORMATS)
FILES = tuple(suffix for suffix in FORMATS if suffix not in ("", ".orbax"))
DTYPES = (jnp.float16, jnp.bfloat16, jnp.float32)


def needs(suffix: str) -> None:
    if checkpoints.FORMATS[suffix] is checkpoints.TORCH:
        pytest.importorskip("torch")


def network(dtype: Any = jnp.float32) -> fb.BiLSTMWithAttention:
    return fb.BiLSTMWithAttention(3, 4, 2, param_dtype=dtype, rngs=nnx.Rngs(0))


def assert_identical(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert list(a) == list(b)
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape)
        assert a[name].tobytes() == b[name].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("suffix", FORMATS)
def test_save_and_load_keep_every_bit(suffix: str, dtype: Any, tmp_path: Path) -> None:
    needs(suffix)
    model = network(dtype)
    fb.save(model, tmp_path / f"model{suffix}")
    assert_identical(fb.state_dict(fb.load(tmp_path / f"model{suffix}")), fb.state_dict(model))


@pytest.mark.parametrize("suffix", FORMATS)
def test_float64(suffix: str, tmp_path: Path, x64: None) -> None:
    needs(suffix)
    model = network(jnp.float64)
    fb.save(model, tmp_path / f"model{suffix}")
    assert_identical(fb.state_dict(fb.load(tmp_path / f"model{suffix}")), fb.state_dict(model))


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_reads_what_is_written(dtype: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    expected = fb.state_dict(network(dtype))
    for name, read in {"m.pt": torch.load, "m.safetensors": safetensors.load_file}.items():
        fb.save(network(dtype), tmp_path / name)
        got = read(tmp_path / name)
        assert set(got) == set(expected)
        for key, tensor in got.items():
            assert str(tensor.dtype) == f"torch.{jnp.dtype(dtype).name}"
            np.testing.assert_array_equal(
                tensor.double().numpy(), expected[key].astype(np.float64), strict=True
            )


def test_safetensors_of_a_transposed_array(tmp_path: Path) -> None:
    matrix = np.arange(6.0).reshape(2, 3).T
    path = tmp_path / "m.safetensors"
    checkpoints.FORMATS[".safetensors"].write({"matrix": matrix}, path)
    np.testing.assert_array_equal(checkpoints.read(path).tensors["matrix"], matrix, strict=True)


@pytest.mark.parametrize("suffix", FILES)
def test_an_existing_file_is_replaced_and_readable_by_others(suffix: str, tmp_path: Path) -> None:
    needs(suffix)
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"before")
    old = os.umask(0o022)
    try:
        fb.save(network(), path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]
    fb.load(path)


def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"before")

    def fail(arrays: dict[str, np.ndarray], temporary: Path) -> None:
        temporary.write_bytes(b"half of")
        raise OSError("disk full")

    monkeypatch.setitem(
        checkpoints.FORMATS,
        ".safetensors",
        checkpoints.FORMATS[".safetensors"]._replace(write=fail),
    )
    with pytest.raises(OSError, match="disk full"):
        fb.save(network(), path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".orbax"])
def test_without_room_one_error_names_the_users_file(
    suffix: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoints.orbax_writing, "_check_room", lambda *_: None)  # as by a quota
    path = tmp_path / f"model{suffix}"
    most, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # the same as a full disk, for a file
    try:
        with pytest.raises(OSError, match=rf"^{path}: could not be written: [\w ]+\.$") as error:
            fb.save(fb.LSTM(64, 64, rngs=nnx.Rngs(0)), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    assert error.value.errno == errno.EFBIG
    assert not caplog.records  # nothing is said besides
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("missing/model.safetensors", FileNotFoundError, "expected the folder .* to exist"),
        ("model.onnx", ValueError, r"\.pt, \.pth, .*\.safetensors, .*got \.onnx"),
        ("folder.safetensors", ValueError, "found a folder"),
        ("folder.orbax", ValueError, "found a folder of other things"),
        ("file.orbax", ValueError, "expected a folder or nothing there, found a file"),
    ],
)
def test_where_nothing_can_be_saved(
    name: str, error: type[Exception], says: str, tmp_path: Path
) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "folder.orbax").mkdir()
    (tmp_path / "folder.orbax" / "precious.txt").touch()
    (tmp_path / "file.orbax").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=says):
        fb.save(network(), tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected a checkpoint's file.* found nothing"):
        fb.load(tmp_path / "model.safetensors")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(ValueError, match="got a folder with nothing in it"):
        fb.load(tmp_path / "folder.pt")
    (tmp_path / "run").touch()
    with pytest.raises(ValueError, match="got a file of an unknown kind"):
        fb.load(tmp_path / "run")
    (tmp_path / "run.orbax" / "items").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"with items in it.*such as 100/default"):
        fb.load(tmp_path / "run.orbax")


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_truncated_file_is_refused(suffix: str, keep: int, tmp_path: Path) -> None:
    needs(suffix)
    path = tmp_path / f"model{suffix}"
    fb.save(network(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"damaged one: \D"):  # what is wrong, in words
        fb.load(path)


def test_an_orbax_checkpoint_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "run"
    fb.save(fb.LSTM(2, 3, num_layers=2, rngs=nnx.Rngs(0)), path)
    fb.save(network(), path)
    assert_identical(fb.state_dict(fb.load(path)), fb.state_dict(network()))
    assert list(tmp_path.iterdir()) == [path]


def test_an_orbax_checkpoint_is_the_state_that_a_training_loop_restores(tmp_path: Path) -> None:
    import orbax.checkpoint as ocp

    model = fb.LSTM(2, 3, num_layers=11, bidirectional=True, proj_size=2, rngs=nnx.Rngs(0))
    other = fb.LSTM(2, 3, num_layers=11, bidirectional=True, proj_size=2, rngs=nnx.Rngs(1))
    fb.save(model, tmp_path / "run")
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "run", {"model": nnx.state(other)})
    nnx.update(other, restored["model"])
    assert_identical(fb.state_dict(other), fb.state_dict(model))


@pytest.mark.parametrize("layout", ["state", "wrapped", "pure dict"])
def test_orbax_checkpoints_of_training_loops_are_read(layout: str, tmp_path: Path) -> None:
    import orbax.checkpoint as ocp

    model = fb.LSTM(2, 3, num_layers=2, dropout=0.5, rngs=nnx.Rngs(0))
    state = nnx.state(model, nnx.Param)
    trees = {
        "state": state,
        "wrapped": {"model": nnx.state(model), "step": np.int32(7)},
        "pure dict": nnx.to_pure_dict(state),
    }
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "run", trees[layout])
    assert_identical(fb.state_dict(fb.load(tmp_path / "run")), fb.state_dict(model))


def test_an_orbax_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "run", {"lstm": {"kernel": np.ones((2, 3))}})
    with pytest.raises(ValueError, match=r"expected the names of an nn\.LSTM .* got lstm\.kernel"):
        fb.load(tmp_path / "run")


@pytest.mark.parametrize("gone", ["manifest.ocdbt", "_METADATA"])
def test_a_damaged_orbax_checkpoint_is_refused(gone: str, tmp_path: Path) -> None:
    fb.save(network(), tmp_path / "run")
    (tmp_path / "run" / gone).write_bytes(b"not this")
    with pytest.raises(ValueError, match="got a damaged one"):
        fb.load(tmp_path / "run")


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_of_damaged_arrays_one_error_is_all_that_is_said(
    damage: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fb.save(network(), tmp_path / "run")
    for path in (tmp_path / "run" / "d").iterdir():
        content = path.read_bytes()
        path.unlink() if damage == "gone" else path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"damaged one: [A-Z_]+: Error reading .* again\."):
        fb.load(tmp_path / "run")
    assert capfd.readouterr().err == ""  # not what Orbax's other reads came to


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_safetensors_header_whose_length_begins_as_a_pickle(protocol, tmp_path):
    size = int.from_bytes(bytes([0x80, protocol]), "little")
    header = '{"bias": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'.ljust(size).encode()
    content = len(header).to_bytes(8, "little") + header + np.float32(3).tobytes()
    (tmp_path / "a.safetensors").write_bytes(content)
    assert checkpoints.read(tmp_path / "a.safetensors").tensors["bias"] == 3
