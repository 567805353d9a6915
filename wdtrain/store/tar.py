"""ustar members by hand: written the same on every machine, read at memory speed.

Mode, owner and time are fixed, so a tar's bytes follow from its contents alone. The reader walks
an inflated block: it knows the ustar format (POSIX.1-1988) and refuses what a packer never writes
(links, folders, extensions). Header checksums are not computed again: the block's checksum covers
them.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

BLOCK: Final = 512
END_OF_ARCHIVE: Final = bytes(2 * BLOCK)
MAX_NAME: Final = 100
_MAX_PREFIX: Final = 155
_MAX_SIZE: Final = 8**11 - 1
_SIZE: Final = re.compile(rb" *([0-7]+)[ \0]*")

_OWNER: Final = b"0000644\0" + b"0000000\0" * 2
_TIME: Final = b"00000000000\0"
_KIND: Final = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2
_FIXED_SUM: Final = sum(_OWNER) + sum(_TIME) + 8 * ord(" ") + sum(_KIND)


class TarError(ValueError):
    """Bytes that are not the members of a packed block."""


class Member(NamedTuple):
    """One file of a tar: its name, and where its bytes lie in the block."""

    name: str
    start: int
    size: int


def padded(size: int) -> int:
    """`size` rounded up to whole tar blocks."""
    return -(-size // BLOCK) * BLOCK


def header(name: bytes, size: int) -> bytes:
    """The 512 bytes before a member of this name and size; TarError for a name that cannot fit."""
    prefix = b""
    if len(name) > MAX_NAME:
        prefix, name = _split_name(name)
    if size > _MAX_SIZE:
        raise TarError(f"member {name!r} has {size} bytes; ustar holds at most 8 GiB")
    octal = b"%011o\0" % size
    checksum = _FIXED_SUM + sum(name) + sum(octal) + sum(prefix)
    start = name.ljust(100, b"\0") + _OWNER + octal + _TIME + b"%06o\0 " % checksum + _KIND
    return start + prefix.ljust(BLOCK - len(start), b"\0")


def _split_name(name: bytes) -> tuple[bytes, bytes]:
    """(prefix, name) at a slash, both within ustar's limits."""
    cut = name.find(b"/", len(name) - MAX_NAME - 1)
    if not 0 < cut <= _MAX_PREFIX or cut == len(name) - 1:
        raise TarError(
            f"member name {name[:40]!r}... has {len(name)} bytes; ustar holds {MAX_NAME}, "
            f"and {_MAX_PREFIX} more before a slash; shorten the key"
        )
    return name[:cut], name[cut + 1 :]


def member(name: bytes, data: bytes) -> bytes:
    """Header, data and padding of one member."""
    return header(name, len(data)) + data + bytes(-len(data) % BLOCK)


def read_header(data: bytes | memoryview, at: int) -> Member:
    """The member whose header is at byte `at`; TarError if it is none or goes past the end."""
    head = bytes(data[at : at + BLOCK])
    if head[257:262] != b"ustar" or head[156] not in b"0\0":
        raise TarError(f"no plain ustar member at byte {at}")
    octal = _SIZE.fullmatch(head, 124, 135)
    if octal is None:  # int() alone would take signs and underscores
        raise TarError(f"unreadable size in the tar header at byte {at}")
    size = int(octal[1], 8)
    try:
        name = head[:MAX_NAME].rstrip(b"\0").decode()
        if head[345]:
            name = f"{head[345 : 345 + _MAX_PREFIX].rstrip(bytes(1)).decode()}/{name}"
    except ValueError as error:
        raise TarError(f"unreadable tar header at byte {at}") from error
    if at + BLOCK + padded(size) > len(data):
        raise TarError(f"member {name} goes past the end of its block")
    return Member(name, at + BLOCK, size)


def walk(data: bytes) -> list[Member]:
    """The members of a run of tar members.

    Ends at the end of the bytes or at the end-of-archive zeros, after which nothing may follow.
    """
    members: list[Member] = []
    at, end = 0, len(data)
    while at + BLOCK <= end and data[at]:
        member = read_header(data, at)
        members.append(member)
        at = member.start + padded(member.size)
    if any(data[at:]):
        raise TarError(f"bytes after the last member, at byte {at}")
    return members
