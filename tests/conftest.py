"""What every test runs under: strict shapes, strict promotion, exact matmuls, one torch thread."""

import importlib.util
import os
import sys
from collections.abc import Iterator

import hypothesis
import jax
import jaxtyping
import pytest

# Every call into flax_bilstm has its annotated shapes and dtypes checked. The hook rewrites modules
# as they are imported, so one that came in earlier would go unchecked without a word.
assert "flax_bilstm" not in sys.modules, "flax_bilstm was imported before the type-checking hook"
jaxtyping.install_import_hook("flax_bilstm", "beartype.beartype")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_num_cpu_devices", 2)  # for test_sharding; all else runs on the first

hypothesis.settings.register_profile(
    "project",
    deadline=None,  # the first example compiles
    max_examples=25,
    derandomize=bool(os.environ.get("CI")),
    # `x64` is meant to stay on for all examples of a test.
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("project")

# Where only the wheel is installed, neither benchmarks nor tools can be imported.
collect_ignore = [] if importlib.util.find_spec("benchmarks") else ["benchmarks", "tools"]

if importlib.util.find_spec("torch"):
    import torch

    torch.set_num_threads(1)  # the workers share the cores


@pytest.fixture
def quickly_compiled() -> Iterator[None]:
    """For tests of what is computed, not of its rounding: compiling is most of a test's time.

    XLA optimizes the program as ever; LLVM hardly optimizes the machine code of it.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def x64_beside_others() -> Iterator[None]:
    """Float64 in JAX where it judges lower precisions: those are compiled as for users."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def x64(quickly_compiled: None, x64_beside_others: None) -> None:
    """Float64 in JAX for the length of one test."""


@pytest.fixture
def standard_promotion() -> Iterator[None]:
    """For tests that step optax's Adam, whose bias correction raises a float to an int32."""
    with jax.numpy_dtype_promotion("standard"):
        yield
