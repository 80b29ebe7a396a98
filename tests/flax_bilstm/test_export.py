"""The exported artifact: equal to the model, for every batch and time, and free of this library."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.mlir.dialects.stablehlo import (
    deserialize_portable_artifact,
    serialize_portable_artifact,
)
from jax.interpreters.mlir import make_ir_context

import flax_bilstm as fb
from flax_bilstm import stablehlo
from flax_bilstm.cli import BAD_INPUT, DIFFERS, GOOD, artifact, main

pytest.importorskip("flatbuffers")

MODELS = {
    "network": lambda dtype: fb.BiLSTMWithAttention(3, 4, 2, param_dtype=dtype, rngs=nnx.Rngs(0)),
    "lstm": lambda dtype: fb.LSTM(
        3, 4, num_layers=2, dropout=0.5, bidirectional=True, param_dtype=dtype, rngs=nnx.Rngs(0)
    ),
    "time-major": lambda dtype: fb.LSTM(
        3, 4, time_major=True, proj_size=2, param_dtype=dtype, rngs=nnx.Rngs(0)
    ),
}


def through_bytes(model: Any) -> Any:
    return jax.export.deserialize(bytearray(fb.export(model).serialize()))


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_model_in_float64(name: str, x64: None) -> None:
    model = MODELS[name](jnp.float64)
    loaded = through_bytes(model)
    model.eval()
    apply = nnx.jit(lambda model, x: model(x))
    for batch, time in ((1, 1), (2, 6), (40, 3)):
        leading = (time, batch) if name == "time-major" else (batch, time)
        x = np.random.default_rng(0).standard_normal((*leading, 3))
        expected, got = jax.tree.leaves(apply(model, x)), jax.tree.leaves(loaded.call(x))
        for a, b in zip(expected, got, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)


def test_equals_the_model_in_float32() -> None:
    model = MODELS["network"](jnp.float32)
    x = np.random.default_rng(0).standard_normal((2, 7, 3), dtype=np.float32)
    np.testing.assert_allclose(through_bytes(model).call(x), model(x), rtol=0, atol=5e-7)


def test_one_artifact_for_every_platform_and_size() -> None:
    loaded = through_bytes(MODELS["network"](jnp.float32))
    assert loaded.platforms == ("cpu", "cuda", "tpu")
    (x,), (y,) = loaded.in_avals, loaded.out_avals
    assert (x.str_short(), y.str_short()) == ("float32[batch,time,3]", "float32[batch,2]")


def test_the_model_is_left_as_it_was() -> None:
    model = fb.LSTM(3, 4, num_layers=2, dropout=0.5, implementation="fused", rngs=nnx.Rngs(0))
    fb.export(model)
    assert model.implementation == "fused"
    assert not model.dropout.deterministic


def test_the_weights_are_inside() -> None:
    small = len(fb.export(fb.LSTM(3, 8, rngs=nnx.Rngs(0))).serialize())
    large = len(fb.export(fb.LSTM(3, 128, rngs=nnx.Rngs(0))).serialize())
    numbers = 4 * 128 * (3 + 128 + 2)
    assert 4 * numbers < large < 4 * numbers + small


def test_it_tells_nothing_of_the_machine_that_made_it() -> None:
    limit = jax.config.jax_traceback_in_locations_limit
    assert b".py" not in fb.export(MODELS["network"](jnp.float32)).serialize()
    assert jax.config.jax_traceback_in_locations_limit == limit


@pytest.mark.parametrize("implementation", ["scan", "fused", "native"])
def test_by_hand_with_lengths_and_sizes_yet_unknown(implementation: str, x64: None) -> None:
    model = fb.BiLSTMWithAttention(
        3, 4, 2, implementation=implementation, param_dtype=jnp.float64, rngs=nnx.Rngs(0)
    )
    batch, time = jax.export.symbolic_shape("batch, time")
    run = jax.jit(lambda x, lengths: model(x, lengths=lengths))
    exported = jax.export.export(run)(
        jax.ShapeDtypeStruct((batch, time, 3), jnp.float64),
        jax.ShapeDtypeStruct((batch,), jnp.int8),
    )
    loaded = jax.export.deserialize(bytearray(exported.serialize()))
    for size in ((1, 1), (40, 200)):  # a time that int8 does not hold
        rng = np.random.default_rng(0)
        x = rng.standard_normal((*size, 3))
        lengths = rng.integers(1, min(size[1], 127), size[0], dtype=np.int8, endpoint=True)
        np.testing.assert_allclose(loaded.call(x, lengths), run(x, lengths), rtol=0, atol=1e-14)


class Scanned(nnx.Module):
    """Layers that nnx.vmap stacked and nnx.scan runs over."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        split = nnx.split_rngs(splits=2)
        self.layers = split(nnx.vmap(lambda rngs: fb.LSTM(3, 3, rngs=rngs)))(rngs)

    def __call__(self, x: Any) -> Any:
        carried: Any = nnx.scan(
            lambda x, layer: layer(x)[0], in_axes=(nnx.Carry, 0), out_axes=nnx.Carry
        )
        return carried(x, self.layers)


def test_a_module_that_scans_over_its_layers() -> None:
    model = Scanned(nnx.Rngs(0))
    exported = fb.export(model, ("batch, time, 3", "float32"))
    x = np.random.default_rng(0).standard_normal((2, 5, 3), dtype=np.float32)
    np.testing.assert_allclose(exported.call(x), model(x), rtol=0, atol=5e-7)


def test_another_module_is_refused() -> None:
    cell: Any = fb.LSTMCell(2, 3, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="LSTMCell"):
        fb.export(cell)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    fb.save(MODELS["network"](jnp.float32), path)
    return path


def test_the_command_and_a_loader_that_has_only_jax(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = tmp_path / "model.jax"
    assert main(["export", str(checkpoint), str(artifact)]) == GOOD
    printed = capsys.readouterr().out
    assert "float32[batch,time,3]  platforms: cpu, cuda, tpu" in printed
    assert f"{artifact.stat().st_size:,} bytes" in printed
    x = np.random.default_rng(0).standard_normal((2, 5, 3), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    program = """
import sys
for name in ("flax", "flax_bilstm", "torch", "orbax", "optax", "safetensors"):
    sys.modules[name] = None
import pathlib, jax, numpy
artifact = jax.export.deserialize(bytearray(pathlib.Path("model.jax").read_bytes()))
numpy.save("y.npy", artifact.call(numpy.load("x.npy")))
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    expected = fb.load(checkpoint)(x)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=0, atol=5e-7)


@pytest.mark.parametrize("name", ["bias_ih", "kernel_hh"])  # below and above TAKEN_OUT
def test_an_artifact_that_differs_is_not_kept(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "model.safetensors"
    model = fb.LSTM(3, 16, rngs=nnx.Rngs(0))
    fb.save(model, checkpoint)
    weight = np.asarray(getattr(model.layers[0].forward, name))
    write = artifact.write

    def faulty(program: artifact.Program, path: Path) -> None:
        write(program, path)
        whole = path.read_bytes()
        assert whole.count(weight.tobytes()) == 1
        path.write_bytes(whole.replace(weight.tobytes(), (weight + 1e-2).tobytes()))

    monkeypatch.setattr(artifact, "write", faulty)
    assert main(["export", str(checkpoint), str(tmp_path / "model.jax")]) == DIFFERS
    assert "differs from the model by 0.0" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [checkpoint]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_file_is_as_jax_would_write_it(dtype: Any, tmp_path: Path) -> None:
    model = fb.LSTM(3, 64, param_dtype=dtype, rngs=nnx.Rngs(0))
    program = artifact.Program(*stablehlo.with_weights_outside(model))
    artifact.write(program, tmp_path / "model.jax")
    loaded = jax.export.deserialize(bytearray((tmp_path / "model.jax").read_bytes()))
    data = loaded.mlir_module_serialized
    with make_ir_context() as context:
        module = deserialize_portable_artifact(context, data)
        version = data[: data.index(b"\0")].partition(b"_v")[2].decode()
        assert serialize_portable_artifact(module, version) == data
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(dtype)
    model.implementation = "scan"
    np.testing.assert_array_equal(loaded.call(x)[0], jax.jit(model)(x)[0])
    outside = artifact.read(tmp_path / "model.jax")
    assert sum(weight.nbytes for weight in outside.weights) >= 64 * 4 * 64 * x.itemsize
    np.testing.assert_array_equal(outside.function.call(x, *outside.weights)[0], loaded.call(x)[0])
    with pytest.raises(OSError, match="No space"):
        artifact.write(artifact.Program(*stablehlo.with_weights_outside(model)), Path("/dev/full"))


def test_more_weights_than_a_file_can_hold(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(artifact, "LARGEST", 1000)
    assert main(["export", str(checkpoint), str(tmp_path / "model.jax")]) == BAD_INPUT
    assert "expected at most 1,000 bytes of weights" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_without_flatbuffers_it_says_what_to_install(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def serialize(exported: Any) -> bytes:
        raise ImportError("no flatbuffers")

    monkeypatch.setattr(jax.export.Exported, "serialize", serialize)
    assert main(["export", str(checkpoint), str(tmp_path / "model.jax")]) == BAD_INPUT
    assert "flax-bilstm[export]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_bad_input(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path / "none.pt"), str(tmp_path / "model.jax")]) == BAD_INPUT
    assert main(["export", str(checkpoint), str(checkpoint), "--overwrite"]) == BAD_INPUT
    assert capsys.readouterr().err.count("flax-bilstm: ") == 2
    assert list(tmp_path.iterdir()) == [checkpoint]
