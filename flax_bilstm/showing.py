"""Text for people: what others wrote is escaped, and no longer than a line; counts with nouns."""

from collections.abc import Sequence
from typing import Any

LONGEST = 200


def shown(value: Any, most: int = LONGEST) -> str:
    """`value`, or its class if it is not a name, without control characters, cut after `most`."""
    text = value if isinstance(value, str) else str(value) if _is_plain(value) else ""
    text = text or f"{type(value).__name__}"
    cut = escaped(text[:most])
    return cut if len(text) <= most else f"{cut}… ({len(text):,} characters)"


def counted(count: int, noun: str) -> str:
    """A count with its noun.

    >>> counted(1, "tensor"), counted(2000, "tensor")
    ('1 tensor', '2,000 tensors')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(texts: Sequence[str], most: int = 8) -> str:
    """The first of the texts, and how many there are in all if there are more.

    >>> listed(["a", "b", "c"], 2)
    'a, b, ... (3 in all)'
    """
    more = [f"... ({len(texts)} in all)"] if len(texts) > most else []
    return ", ".join([*texts[:most], *more])


def escaped(text: str) -> str:
    """`text` with characters that do not print, such as control sequences, escaped as by repr.

    >>> escaped("a\\x1b[31m")
    'a\\\\x1b[31m'
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode-escape", "surrogatepass").decode() for c in text
    )


def _is_plain(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, (bool, float))
        or (isinstance(value, int) and value.bit_length() < 64)
    )
