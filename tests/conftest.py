"""What every test runs under: strict shapes, strict promotion, exact matmuls, one torch thread."""

import functools
import gc
import importlib.util
import inspect
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

import hypothesis
import jax
import jaxtyping
import pytest
from jax._src import compiler  # nothing public sets compiler options for all programs at once

from .compiling import compile_once, compile_trifles_quickly, lower_in_one_context, simple_code

# Every call into flax_bilstm has its annotated shapes and dtypes checked. The hook rewrites modules
# as they are imported, so one that came in earlier would go unchecked without a word.
assert "flax_bilstm" not in sys.modules, "flax_bilstm was imported before the type-checking hook"
fully_checked = jaxtyping.jaxtyped


def needs_jaxtyping(hint: Any) -> bool:
    """Whether it has a shape, or quoted names, which jaxtyping ignores where they are unknown."""
    text = str(hint).removeprefix("<class '").removesuffix("'>")
    return "jaxtyping." in text or "'" in text


def checked(typechecker: Any) -> Any:
    """What the hook decorates with: where no hint has a shape, the type checker alone.

    jaxtyping compares the shapes of all arguments and of the result, which takes some 30 µs a call.
    Nine functions in ten, such as those that walk over a module, have none: one test called them
    100,000 times.
    """

    def decorate(what: Any) -> Any:
        hints = inspect.get_annotations(what).values()
        if inspect.isclass(what) or any(map(needs_jaxtyping, hints)):
            return fully_checked(what, typechecker=typechecker)
        types_checked = typechecker(what)

        @functools.wraps(what)
        def call(*args: Any, **options: Any) -> Any:
            run = what if jaxtyping.config.jaxtyping_disable else types_checked
            return run(*args, **options)

        return call

    return decorate


jaxtyping.jaxtyped = checked
jaxtyping.install_import_hook("flax_bilstm", "beartype.beartype")

compile_once()
lower_in_one_context()
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_num_cpu_devices", 2)  # for test_sharding; all else runs on the first
compile_trifles_quickly()  # starts JAX's backend, so the number of devices is set before

# JAX's traces are many objects that live long: looking through them again and again costs 7 %.
gc.set_threshold(100_000, 20, 50)


def pytest_collection_finish() -> None:
    """Keep the collector from what stays until the end: `convert` runs it several times a call."""
    gc.collect()
    gc.freeze()


hypothesis.settings.register_profile(
    "project",
    deadline=None,  # the first example compiles
    max_examples=25,
    derandomize="DEEP_CASES" not in os.environ,  # repeatable; `make deep` draws new cases
    # `x64` is meant to stay on for all examples of a test.
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("project")

# Where only the wheel is installed, neither benchmarks nor tools can be imported.
collect_ignore = [] if importlib.util.find_spec("benchmarks") else ["benchmarks", "tools"]

if importlib.util.find_spec("torch"):
    import torch

    torch.set_num_threads(1)  # the workers share the cores


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Nothing in the tests' own process may look up a host or connect to one.

    Local sockets stay: `multiprocessing` talks to its processes by them.
    """
    connect = socket.socket.connect

    def refuse(*what: Any, **options: Any) -> None:
        raise AssertionError(f"a test reached for the network: {what}")

    def connect_locally(one: socket.socket, address: Any) -> None:
        connect(one, address) if one.family == socket.AF_UNIX else refuse(address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", refuse)
        patch.setattr(socket.socket, "connect", connect_locally)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_late_results() -> None:
    """As in the commands: it may come while another test runs, which would fail."""
    from flax_bilstm.checkpoints.orbax_threads import ignore_late_results

    ignore_late_results()


@pytest.fixture
def quickly_compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For tests of what is computed, not of its rounding: compiling is most of a test's time.

    XLA optimizes the program as ever; the machine code of it is made simply and hardly optimized.
    """
    as_ever, simply = compiler.get_compile_options, simple_code()

    def options(*args: Any, env_options_overrides: Any = None, **others: Any) -> Any:
        overrides = simply | (env_options_overrides or {})
        return as_ever(*args, env_options_overrides=overrides, **others)

    monkeypatch.setattr(compiler, "get_compile_options", options)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def quick_environment() -> dict[str, str]:
    """`quickly_compiled` for other processes; and one thread, since the workers share the cores."""
    flags = [f"--{name}={str(value).lower()}" for name, value in simple_code().items()]
    return {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "OMP_NUM_THREADS": "1",
        "XLA_FLAGS": " ".join(flags),
    }


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


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Annotations as outside the tests: not enforced, so that our own errors are what one sees."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
