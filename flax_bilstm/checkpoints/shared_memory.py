"""How often tensors may share memory: tied weights do, and hostile files make terabytes of it."""

from collections.abc import Mapping

import numpy as np
from numpy.lib.array_utils import byte_bounds

LARGEST_SHARING = 64
"""Most bytes of tensors for each byte in the file: 64 layers may be one and the same."""

ALWAYS_ALLOWED = 2**20  # bytes


def check_sharing(tensors: Mapping[str, np.ndarray]) -> None:
    """Refuse tensors that would need much more memory than they have, once each is by itself.

    Raises:
        ValueError: they have more than `LARGEST_SHARING` times the bytes that they are views of.
    """
    bounds = sorted(byte_bounds(array) for array in tensors.values() if array.size)
    held, end = 0, 0
    for start, stop in bounds:
        held += max(0, stop - max(start, end))
        end = max(end, stop)
    needed = sum(array.nbytes for array in tensors.values())
    if needed > LARGEST_SHARING * held + ALWAYS_ALLOWED:
        raise ValueError(
            f"expected tensors of at most {LARGEST_SHARING} times the {held:,} bytes that they "
            f"share, got {len(tensors):,} tensors of {needed:,} bytes; save each weight once."
        )
