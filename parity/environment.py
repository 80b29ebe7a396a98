"""The environment in which a report is made, and the precision that is set for it."""

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import torch

from flax_bilstm import native_available

_PACKAGES = ("flax-bilstm", "torch", "jax", "jaxlib", "flax", "optax", "numpy")
MATMUL_PRECISION = "highest"


LARGE = 2**22
"""The number of parameters from which on torch may use several threads."""


@contextmanager
def pinned_precision(parameters: int = 0) -> Iterator[None]:
    """Compute matrix products in the arrays' dtype in both frameworks; restored at the end.

    By default JAX may use TF32 on GPUs and bfloat16 on TPUs, and torch's cuDNN uses TF32. torch
    runs in one thread unless there are many parameters: several threads wait for each other by
    spinning, which on a busy machine takes ten times as long as the small operations themselves.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    threads = torch.get_num_threads()
    try:
        torch.set_float32_matmul_precision(MATMUL_PRECISION)
        torch.backends.cudnn.allow_tf32 = False
        torch.set_num_threads(threads if parameters >= LARGE else 1)
        with jax.default_matmul_precision(MATMUL_PRECISION):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def describe_environment(dtypes: Sequence[str]) -> dict[str, Any]:
    """Dtypes, matmul precision, versions and platform, ready for JSON."""
    return {
        "dtypes": list(dtypes),
        "matmul_precision": MATMUL_PRECISION,
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": {
            "system": platform.platform(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "jax_backend": jax.default_backend(),
            "jax_devices": [device.device_kind for device in jax.devices()],
            "torch_threads": torch.get_num_threads(),
            "native_lstm": native_available().reason,
        },
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
