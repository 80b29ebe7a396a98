"""Where the C++ library is used, and why not: a layer then runs as `fused` does."""

import os
import shutil
from pathlib import Path

import jax
import pytest
from numpy._core import _multiarray_umath  # a library without our functions

import flax_bilstm as fb
from flax_bilstm.recurrence.native import library

from .native_layer import run_python

available = pytest.mark.skipif(not fb.native_available(), reason=fb.native_available().reason)


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler, so nothing to build with")
@pytest.mark.skipif(os.environ.get(library.VARIABLE) == "off", reason="it is switched off")
def test_the_library_is_available_where_a_compiler_is():
    assert fb.native_available(), fb.native_available().reason


ASK = "import flax_bilstm as fb; print(*fb.native_available(), sep='|')"
RUN = (
    ASK
    + """
import numpy as np
from flax import nnx
x = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
default, plain = (
    fb.LSTM(3, 20, bidirectional=True, implementation=name, rngs=nnx.Rngs(0))
    for name in (None, "scan")
)
run = nnx.jit(lambda lstm, x: lstm(x)[0])
assert "flax_bilstm_forward" in run.lower(default, x).as_text()
np.testing.assert_allclose(run(default, x), run(plain, x), atol=1e-6)
"""
)


def test_it_is_switched_off_by_the_environment_variable():
    assert run_python(ASK, FLAX_BILSTM_NATIVE="off").stdout == "False|FLAX_BILSTM_NATIVE=off\n"


@available
@pytest.mark.parametrize("name", library.INSTRUCTION_SETS)
def test_the_environment_variable_forces_an_instruction_set(name):
    run = run_python(RUN, FLAX_BILSTM_NATIVE=name)
    if name != "portable" and "an instruction set of this processor" in run.stderr:
        pytest.skip(f"this processor has no {name}")
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"True|runs on CPUs, with the instruction set {name}\n"


@available
def test_an_instruction_set_that_does_not_exist_is_refused():
    run = run_python(ASK, FLAX_BILSTM_NATIVE="sse")
    assert "expected 'off' or an instruction set of this processor" in run.stderr


def refuse(*_args, **_options):
    raise jax.errors.JaxRuntimeError("incompatible")


@available
@pytest.mark.parametrize(
    ("name", "other", "says"),
    [
        pytest.param(
            "jax.ffi.register_ffi_target", refuse, "refused .* incompatible", id="refused"
        ),
        pytest.param("_ffi_version", lambda: 1, "jaxlib .* has 1", id="jaxlib is too old"),
        pytest.param(
            "PATH", Path(_multiarray_umath.__file__), "flax_bilstm_", id="another library"
        ),
        pytest.param("INTERFACE", 99, "version 99 is called: .* other sources", id="built before"),
    ],
)
def test_a_library_that_does_not_fit_is_warned_of_once(name, other, says, monkeypatch):
    def ask_twice():
        return [bool(fb.native_available()) for _ in range(2)]

    library.native_available.cache_clear()
    owner, _, attribute = name.rpartition(".")
    monkeypatch.setattr(jax.ffi if owner else library, attribute, other)
    try:
        with pytest.warns(RuntimeWarning, match=says) as warned:
            answers = ask_twice()
        assert answers == [False, False]
        assert len(warned) == 1
    finally:
        monkeypatch.undo()
        library.native_available.cache_clear()
    assert ask_twice() == [True, True]


REFUSED = """
    import ctypes
    import warnings

    import numpy as np
    from flax import nnx
    from jax._src import xla_bridge

    import flax_bilstm as fb
    from flax_bilstm.recurrence.native import library

    # Asked for its version, this handler leaves 0.0.
    handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(lambda frame: None)
    loaded = library.load()

    class Other:
        def __getattr__(self, name):
            return handler if name in library.CALLS else getattr(loaded, name)

    library.load = Other

    def outputs(implementation):
        return fb.LSTM(3, 4, implementation=implementation, rngs=nnx.Rngs(0))(x)[0]

    assert not xla_bridge._backends
    x = np.ones((1, 5, 3), np.float32)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        default, native, fused = map(outputs, (None, "native", "fused"))
    assert (default == fused).all() and (native == fused).all()
    print(*(warning.message for warning in warned), sep="|")
    print(fb.native_available().available)
"""


@available
def test_a_handler_that_jaxlib_refuses_leaves_layers_to_fused():
    """From a process where no backend has started, so that JAX would defer the registration."""
    run = run_python(REFUSED)
    assert run.returncode == 0, run.stderr
    warnings, available = run.stdout.splitlines()
    assert "API version" in warnings
    assert "|" not in warnings
    assert available == "False"


@available
def test_without_a_cpu_in_jax_it_is_not_available_and_warns_of_nothing(monkeypatch):
    def no_cpu(platform):
        raise RuntimeError(f"Unknown backend {platform}")

    library.native_available.cache_clear()
    monkeypatch.setattr(jax, "devices", no_cpu)
    found = library.native_available()
    library.native_available.cache_clear()
    assert found == (False, "JAX has no CPU here: Unknown backend cpu")
