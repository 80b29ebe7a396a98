"""The compiled library: loaded once, if it is there and this jaxlib takes it."""

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
"""Environment variable: an instruction set by name, or "off"; unset, the best one is taken."""

INSTRUCTION_SETS = ("portable", "avx2", "avx512")
CALLS = ("flax_bilstm_forward", "flax_bilstm_backward", "flax_bilstm_weight_gradients")
# `make sanitize` has another build of it in this variable.
PATH = Path(os.environ.get("FLAX_BILSTM_LIBRARY", Path(__file__).with_name("libflax_bilstm.so")))


class Availability(NamedTuple):
    """Whether LSTM layers run natively on this machine's CPU, and how or why not."""

    available: bool
    reason: str

    def __bool__(self) -> bool:
        return self.available


@cache
def native_available() -> Availability:
    """Whether the C++ LSTM is there: true or false in a condition, with its reason.

    The first call loads the library and tells JAX of it. `FLAX_BILSTM_NATIVE` in the environment
    chooses an instruction set, "portable", "avx2" or "avx512", or "off".

    Raises:
        ValueError: `FLAX_BILSTM_NATIVE` names no instruction set that this processor has.
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
    except OSError as error:
        return _refused(str(error))
    built, here = library.flax_bilstm_ffi_version(), _ffi_version()
    if built > here:
        return _refused(
            f"{PATH.name} was built for version {built} of XLA's FFI, but jaxlib "
            f"{version('jaxlib')} has {here}; install flax-bilstm again, or a newer jaxlib"
        )
    chosen = wanted or library.flax_bilstm_best_instruction_set().decode()
    if not library.flax_bilstm_choose_instruction_set(chosen.encode()):
        raise ValueError(
            f"{VARIABLE}: expected 'off' or an instruction set of this processor, one of "
            f"{', '.join(INSTRUCTION_SETS)}, got {wanted!r}."
        )
    for name in CALLS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    return Availability(True, f"runs on CPUs, with the instruction set {chosen}")


def load() -> ctypes.CDLL:
    """The library, its functions typed.

    Raises:
        OSError: it cannot be loaded.
    """
    library = ctypes.CDLL(str(PATH))
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
        f"flax_bilstm: the LSTM runs in XLA, more slowly, not in C++: {reason}.",
        RuntimeWarning,
        stacklevel=3,
    )
    return Availability(False, reason)


def _ffi_version() -> int:
    """1000 · major + minor of this jaxlib's FFI, whose handlers may be older but not newer."""
    header = Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h"
    numbers = re.findall(r"#define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)", header.read_text())
    major, minor = (int(number) for number in numbers)
    return 1000 * major + minor
