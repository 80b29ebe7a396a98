"""Memory that is freed goes back to the operating system."""

from flax_bilstm.cli.memory import trim

MUCH = 2**26
"""The number of bytes from which on it is worth the time."""


def give_back(freed: int) -> None:
    """Give memory that was freed back to the operating system, if it was MUCH.

    JAX and PyTorch compute in different threads, so that a large network would need far more than
    its arrays.
    """
    if freed >= MUCH:
        trim()
