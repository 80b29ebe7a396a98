"""A state dict of PyTorch, and whether a checkpoint holds it to the bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flax_bilstm import checkpoints

torch = pytest.importorskip("torch")


def state_dict(hidden: int = 3) -> dict[str, Any]:
    torch.manual_seed(0)
    return dict(torch.nn.LSTM(2, hidden).state_dict())


def assert_holds(path: Path, expected: dict[str, Any], **options: Any) -> Any:
    read = checkpoints.read(path, **options)
    assert set(read.tensors) == set(expected)
    for name, tensor in expected.items():
        got, want = read.tensors[name], tensor.detach()
        assert (str(want.dtype), tuple(want.shape)) == (f"torch.{got.dtype.name}", got.shape)
        wide = np.complex128 if got.dtype.kind == "c" else np.float64
        np.testing.assert_array_equal(
            got.astype(wide), want.to(torch.complex128).numpy().astype(wide)
            if got.dtype.kind == "c" else want.double().numpy()
        )  # fmt: skip
    return read
