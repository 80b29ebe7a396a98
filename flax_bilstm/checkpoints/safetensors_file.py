"""`.safetensors` files: https://huggingface.co/docs/safetensors, tensors and nothing else.

They are read without PyTorch, bfloat16 included, which the format's own NumPy reader lacks.
"""

from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors in the file, sorted by name.

    Raises:
        ValueError: the file is damaged, or holds a dtype that is not in `DTYPES`.
    """
    try:
        entries = dict(safetensors.deserialize(path.read_bytes()))
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path}: expected a safetensors file, got another or a damaged one: {error}."
        ) from error
    unknown = sorted({entry["dtype"] for entry in entries.values()} - set(DTYPES))
    if unknown:
        raise ValueError(f"{path}: expected dtypes among {', '.join(DTYPES)}, got {unknown}.")
    return {  # by name: the library hands them out in another order each time
        name: np.frombuffer(entry["data"], DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in sorted(entries.items())
    }


def write(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Write the tensors, marked as in PyTorch's layout."""
    contiguous = {name: array.copy(order="C") for name, array in arrays.items()}  # a must
    safetensors.numpy.save_file(contiguous, path, metadata={"format": "pt"})
