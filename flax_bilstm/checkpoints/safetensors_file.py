"""`.safetensors` files: https://huggingface.co/docs/safetensors, which contain only tensors.

They are read in place from the mapped file, including bfloat16, which the format's NumPy
reader does not support. A file is the length of its header (8 bytes), the header (JSON), and the
tensors.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from flax_bilstm.checkpoints.mapped import Content, mapped
from flax_bilstm.checkpoints.shapes import count_of
from flax_bilstm.checkpoints.stand_ins import DamagedError
from flax_bilstm.checkpoints.system_errors import not_written
from flax_bilstm.showing import shown

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
LARGEST_HEADER = 100_000_000  # bytes, the same as in the library


def read(path: Path) -> Content:
    """The tensors in the file, sorted by name.

    Raises:
        ValueError: the file is damaged, or has a dtype that is not in `DTYPES`.
    """
    try:
        return Content(dict(sorted(_tensors(mapped(path)))))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        what = (
            str(error)
            if isinstance(error, DamagedError)
            else "its header is not the JSON of a safetensors file"
        )
        raise ValueError(
            f"expected a safetensors file, got another or a damaged one: {what}; copy or download "
            "it again."
        ) from error


def _tensors(data: Any) -> Iterator[tuple[str, np.ndarray]]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, LARGEST_HEADER):
        raise DamagedError("its header is cut off")
    header = json.loads(bytes(data[8 : 8 + length]))
    body, at = memoryview(data)[8 + length :], 0
    entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
    for name, entry in sorted(entries, key=lambda each: tuple(each[1]["data_offsets"])):
        start, end = entry["data_offsets"]
        if entry["dtype"] not in DTYPES:
            raise DamagedError(
                f"{shown(name)} has the dtype {shown(entry['dtype'])}, expected one of "
                f"{', '.join(DTYPES)}"
            )
        dtype, size = DTYPES[entry["dtype"]], count_of(entry["shape"])
        if start != at or end - start != size * dtype.itemsize or end > len(body):
            raise DamagedError(f"the bytes of {shown(name)} are not where its header says")
        yield name, np.ndarray(entry["shape"], dtype, body, start)
        at = end
    if at != len(body):
        raise DamagedError("it has bytes that belong to no tensor")


def write(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Write the tensors, with the metadata that marks PyTorch's layout.

    Raises:
        ValueError: the format has no such dtype.
        OSError: it cannot be written.
    """
    for name, array in arrays.items():
        if array.dtype not in DTYPES.values():
            raise ValueError(f"{name}: expected one of {', '.join(DTYPES)}, got {array.dtype}.")
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    try:
        safetensors.numpy.save_file(contiguous, path, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:  # a full disk, for example
        raise not_written(path, error) from error
