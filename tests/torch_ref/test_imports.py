import subprocess
import sys

import pytest

pytest.importorskip("torch")

CODE = """
import sys
import torch_ref
unwanted = {"jax", "flax", "flax_bilstm", "parity"}
print(sorted(unwanted & {name.split(".")[0] for name in sys.modules}))
"""


def test_needs_torch_alone():
    result = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
