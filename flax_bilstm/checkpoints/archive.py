"""Zip archives, as torch.save writes them: uncompressed members, in the mapped file, checked.

The layout: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.7 to 4.3.16.
"""

import itertools
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from flax_bilstm.checkpoints.stand_ins import Bytes, DamagedError
from flax_bilstm.showing import shown

MOST_MEMBERS = 500_000


class Member(NamedTuple):
    """A member's position, the expected checksum of its bytes, and whether they are compressed."""

    start: int
    end: int
    checksum: int
    is_packed: bool


def members(data: Bytes, start: int = 0, end: int = -1) -> dict[str, Member]:
    """Name → member of the archive data[start:end], without the folder that torch puts all in.

    Raises:
        DamagedError: it is not an archive, or members are outside it or share bytes.
    """
    end = len(data) if end < 0 else end
    try:
        entries = list(_entries(data, start, end))
    except (struct.error, UnicodeError, IndexError) as error:
        raise DamagedError("its zip directory is cut off") from error
    _check_apart(entries)
    return dict(entries)


def checked(data: Bytes, member: Member) -> None:
    """Raise DamagedError if a member is compressed or its bytes do not have its checksum."""
    if member.is_packed:
        raise DamagedError("it is compressed or encrypted, which torch.save's files never are")
    view, found = memoryview(data), 0
    for at in range(member.start, member.end, 2**24):
        found = zlib.crc32(view[at : min(at + 2**24, member.end)], found)
    if found != member.checksum:
        raise DamagedError("its bytes do not have the checksum that was stored with them")


def _check_apart(entries: list[tuple[str, Member]]) -> None:
    """Refuse members that share bytes: each would be read, and its checksum computed, again."""
    ordered = sorted(entries, key=lambda each: each[1].start)
    for (name, member), (other, after) in itertools.pairwise(ordered):
        if after.start < member.end:
            raise DamagedError(
                f"its members {shown(name)} and {shown(other)} share bytes: one ends before byte "
                f"{member.end:,}, expected the other to begin there or later, got {after.start:,}"
            )


def _directory(data: Bytes, start: int, end: int) -> tuple[int, int]:
    """The position of the central directory, and how many members it lists."""
    at = end - 22
    lowest = max(start, end - 22 - 2**16)
    while data[at : at + 4] != b"PK\5\6":  # a comment may follow it
        at -= 1
        if at < lowest:
            raise DamagedError("the end of its zip directory is missing")
    count, _, offset = struct.unpack("<HII", data[at + 10 : at + 20])
    locator = at - 20
    if locator >= start and data[locator : locator + 4] == b"PK\6\7":
        (record,) = struct.unpack("<Q", data[locator + 8 : locator + 16])
        record += start
        if not start <= record <= locator or data[record : record + 4] != b"PK\6\6":
            raise DamagedError("its zip directory is not where the file says")
        count, _, offset = struct.unpack("<QQQ", data[record + 32 : record + 56])
    if count > MOST_MEMBERS:
        raise DamagedError(f"its zip directory lists more than {MOST_MEMBERS:,} members")
    return start + offset, count


def _entries(data: Bytes, start: int, end: int) -> Iterator[tuple[str, Member]]:
    at, count = _directory(data, start, end)
    for _ in range(count):
        if data[at : at + 4] != b"PK\1\2" or at + 46 > end:
            raise DamagedError("its zip directory is damaged")
        flags, method = struct.unpack("<HH", data[at + 8 : at + 12])
        checksum, packed, size, names, extras, comment = struct.unpack(
            "<IIIHHH", data[at + 16 : at + 34]
        )
        (header,) = struct.unpack("<I", data[at + 42 : at + 46])
        name = bytes(data[at + 46 : at + 46 + names]).decode("utf-8")
        extra = bytes(data[at + 46 + names : at + 46 + names + extras])
        size, packed, header = _wide(extra, size, packed, header)
        local = start + header
        if local + 30 > end or data[local : local + 4] != b"PK\3\4":
            raise DamagedError(f"its member {shown(name)} is not where the directory says")
        first = local + 30 + sum(struct.unpack("<HH", data[local + 26 : local + 30]))
        if first + packed > end:
            raise DamagedError(f"its member {shown(name)} reaches beyond the end of the file")
        yield (
            name.partition("/")[2] or name,
            Member(first, first + packed, checksum, packed != size or bool(method or flags & 1)),
        )
        at += 46 + names + extras + comment


def _wide(extra: bytes, *fields: int) -> tuple[int, ...]:
    """The fields; those equal to 2³² − 1 come from the 64-bit ones of zip64 (section 4.5.3)."""
    if 2**32 - 1 not in fields:
        return fields
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack("<HH", extra[at : at + 4])
        if kind == 1:
            numbers = iter(struct.unpack(f"<{size // 8}Q", extra[at + 4 : at + 4 + size // 8 * 8]))
            return tuple(next(numbers, f) if f == 2**32 - 1 else f for f in fields)
        at += 4 + size
    return fields
