"""The compiled library: loaded once, if it exists and is compatible with this jaxlib."""

import ctypes
import os
import re
import warnings
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jax

VARIABLE = "FLAX_BILSTM_NATIVE"
"""Environment variable: the name of an instruction set, or "off"; if unset, the best one."""

INSTRUCTION_SETS = ("portable", "avx2", "avx512")
CALLS = (
    "flax_bilstm_forward",
    "flax_bilstm_backward",
    "flax_bilstm_weight_gradients",
    "flax_bilstm_input_gradients",
)
INTERFACE = 3
"""The version of the library's functions that is called, the same as in lstm.cc."""

# `make sanitize` sets this variable to another build of the library.
PATH = Path(os.environ.get("FLAX_BILSTM_LIBRARY", Path(__file__).with_name("libflax_bilstm.so")))


class Availability(NamedTuple):
    """Whether LSTM layers run natively on this machine's CPU, and the reason."""

    available: bool
    reason: str

    def __bool__(self) -> bool:
        return self.available


@cache
def native_available() -> Availability:
    """Whether the C++ LSTM is available: usable as a condition, with its reason.

    The first call loads the library and registers it with JAX, which starts JAX's backends: set
    `jax_num_cpu_devices` and call `jax.distributed.initialize` before. A stored executable
    (`jax.experimental.serialize_executable`) needs this call before it is loaded. If jaxlib refuses
    the library, there is one warning, and layers run as `fused` does. The environment variable
    `FLAX_BILSTM_NATIVE` chooses an instruction set, "portable", "avx2" or "avx512", or "off".

    Raises:
        ValueError: `FLAX_BILSTM_NATIVE` is not an instruction set of this processor.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "off":
        return Availability(False, f"{VARIABLE}=off")
    if not PATH.exists():
        return Availability(
            False,
            f"{PATH.name} was not built: install a C++ compiler (GCC or Clang), then flax-bilstm "
            "again",
        )
    try:
        library = load()
    except (OSError, AttributeError) as error:  # no library, or none of ours
        return _refused(str(error))
    built, here = library.flax_bilstm_ffi_version(), _ffi_version()
    if built > here:
        return _refused(
            f"{PATH.name} was built for version {built} of XLA's FFI, but jaxlib "
            f"{version('jaxlib')} has {here}; install flax-bilstm again, or a newer jaxlib"
        )
    has = library.flax_bilstm_interface() if hasattr(library, "flax_bilstm_interface") else 1
    if has != INTERFACE:
        return _refused(
            f"{PATH.name} has version {has} of the functions, but version {INTERFACE} is called: "
            "it was built from other sources; install flax-bilstm again"
        )
    chosen = wanted or library.flax_bilstm_best_instruction_set().decode()
    if not library.flax_bilstm_choose_instruction_set(chosen.encode()):
        raise ValueError(
            f"{VARIABLE}: expected 'off' or an instruction set of this processor, one of "
            f"{', '.join(INSTRUCTION_SETS)}, got {wanted!r}."
        )
    try:
        jax.devices("cpu")  # until the backend has started, JAX only notes what is registered
    except RuntimeError as error:
        return Availability(False, f"JAX has no CPU here: {error}")
    try:
        for name in CALLS:
            target = jax.ffi.pycapsule(getattr(library, name))
            jax.ffi.register_ffi_target(name, target, platform="cpu")
    except Exception as error:  # whatever the jaxlib of the day raises
        return _refused(
            f"jaxlib {version('jaxlib')} refused {PATH.name}: {error}; install flax-bilstm again"
        )
    return Availability(True, f"runs on CPUs, with the instruction set {chosen}")


def load() -> ctypes.CDLL:
    """The library, with the types of its functions declared.

    Raises:
        OSError: it cannot be loaded.
        AttributeError: it does not have the functions.
    """
    library = ctypes.CDLL(str(PATH.resolve()))
    library.flax_bilstm_best_instruction_set.restype = ctypes.c_char_p
    library.flax_bilstm_choose_instruction_set.restype = ctypes.c_bool
    pointer = ctypes.c_void_p
    library.flax_bilstm_activations.argtypes = [
        ctypes.c_int, ctypes.c_ssize_t, pointer, pointer, pointer,
    ]  # fmt: skip
    library.flax_bilstm_activations.restype = None
    return library


def _refused(reason: str) -> Availability:
    warnings.warn(
        f"flax_bilstm: the LSTM runs in XLA, which is slower, instead of C++: {reason}.",
        RuntimeWarning,
        stacklevel=3,
    )
    return Availability(False, reason)


def _ffi_version() -> int:
    """1000 · major + minor of this jaxlib's FFI; the library may need an older one, not a newer."""
    header = Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h"
    numbers = re.findall(r"#define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)", header.read_text())
    major, minor = (int(number) for number in numbers)
    return 1000 * major + minor
