"""What is installed, and that importing it costs nothing: no torch, no backend, no warning."""

import email
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("flax_bilstm", "torch_ref", "parity", "parity_entry")


def run_python(script: str, cwd: Path) -> None:
    """Run `script` in a new interpreter, outside the checkout, with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_import_leaves_torch_alone_and_starts_no_backend(tmp_path: Path) -> None:
    run_python(
        "import sys, flax_bilstm, jax._src.xla_bridge as bridge\n"
        "assert 'torch' not in sys.modules\n"
        "assert bridge._backends == {}",
        tmp_path,
    )


def test_import_works_where_torch_does_not(tmp_path: Path) -> None:
    run_python("import sys; sys.modules['torch'] = None; import flax_bilstm", tmp_path)


@pytest.mark.parametrize("missing", ["torch", "rich"])
def test_the_proof_says_what_it_needs(missing: str, tmp_path: Path) -> None:
    module = "parity_entry.command"
    script = f"import sys; sys.modules[{missing!r}] = None; import {module} as m; m.run()"
    if missing != "torch":
        pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, "-c", script, "no.pt"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"parity: the proof needs {missing}, which is not installed; run pip install "
        "'flax-bilstm[parity]'.\n"
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """What a machine without a C++ compiler builds; test_distribution.py has the other."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
    environment = os.environ | {"CXX": "no-such-compiler"}
    subprocess.run(
        [*command, "-w", str(folder), str(ROOT)], env=environment, check=True, capture_output=True
    )
    (path,) = folder.glob("*-py3-none-any.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def test_wheel_holds_its_packages_whole(wheel: zipfile.ZipFile) -> None:
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    sources = {
        path.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for path in ROOT.glob(f"{name}/**/*.py")
    }
    data = {"parity/render/report.css", "parity/report.schema.json"}
    assert files == sources | data | {f"{name}/py.typed" for name in PACKAGES}


def test_wheel_asks_for_torch_only_on_request(wheel: zipfile.ZipFile) -> None:
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    wanted = email.message_from_bytes(wheel.read(metadata)).get_all("Requires-Dist", [])
    unconditional = {line.split(">")[0] for line in wanted if "extra ==" not in line}
    assert unconditional == {"flax", "jax", "jaxtyping", "numpy", "safetensors"}


def test_wheel_carries_the_licence(wheel: zipfile.ZipFile) -> None:
    (licence,) = (name for name in wheel.namelist() if name.endswith("licenses/LICENSE"))
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()


def test_wheel_without_the_library_runs_an_lstm(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    script = f"""if True:
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        # An editable install of the checkout comes before sys.path.
        sys.meta_path[:] = [f for f in sys.meta_path if "ScikitBuild" not in type(f).__name__]
        import flax_bilstm as fb
        from flax import nnx

        assert fb.__file__.startswith({str(tmp_path)!r}), fb.__file__
        available, reason = fb.native_available()
        assert not available
        assert reason.startswith("libflax_bilstm.so was not built: install a C++ compiler"), reason
        assert fb.LSTM(3, 4, rngs=nnx.Rngs(0))([[[1.0, 2.0, 3.0]]])[0].shape == (1, 1, 4)
    """
    run_python(script, tmp_path)


def test_one_version_of_jax_is_the_oldest_everywhere() -> None:
    """The library is built against the headers of the oldest jaxlib that it runs with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = project["build-system"]["requires"] + project["project"]["dependencies"]
    asked = {line for line in lines if line.startswith(("jax>", "jaxlib"))}
    oldest = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    (version,) = (line.removeprefix("jaxlib==") for line in oldest if line.startswith("jaxlib"))
    assert asked == {f"jaxlib=={version}", f"jax>={version}"}
    assert f"jax=={version}" in oldest
