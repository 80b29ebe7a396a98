"""The source distribution and the wheel: what is in them, and that the wheel runs without torch."""

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Both, made by the build backend: the wheel from the source distribution.

    The C++ is not optimized, which would take 15 CPU seconds; `make` has built it optimized.
    """
    folder = tmp_path_factory.mktemp("dist")
    script = f"from scikit_build_core.build import build_sdist; build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)
    (sdist,) = folder.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
    quick = ["--config-settings", "cmake.build-type=Debug", "-w", str(folder)]
    subprocess.run([*pip, *quick, str(sdist)], check=True, capture_output=True)
    return folder


def test_the_source_distribution_can_build_test_and_explain_itself(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ["README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "Makefile", "pyproject.toml"]
    wanted += ["constraints.txt", "examples/train_digits.py", "tests/test_distribution.py"]
    assert set(wanted) <= names
    assert not [
        name for name in names if "__pycache__" in name or name.startswith((".venv", "site/"))
    ]


def test_the_wheel_installs_and_imports_without_torch(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    pure = wheel.name.endswith("-any.whl")
    assert pure is (shutil.which("c++") is None), wheel.name
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(tmp_path), str(wheel)], check=True, capture_output=True)
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.modules['torch'] = None\n"
        # An editable install of the checkout comes before sys.path.
        "sys.meta_path[:] = [f for f in sys.meta_path if 'ScikitBuild' not in type(f).__name__]\n"
        "import flax_bilstm, flax_bilstm.linen, flax_bilstm.sharding, flax_bilstm.cli\n"
        f"assert flax_bilstm.__file__.startswith({str(tmp_path)!r}), flax_bilstm.__file__\n"
        f"assert bool(flax_bilstm.native_available()) is {not pure}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_version_is_one():
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)[1]
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
