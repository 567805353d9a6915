"""A user's own files: read without waiting, checked for changes, and counted.

The truth about a file is its bytes; size, times and inode only say which to read again.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import xxhash

Path = str | bytes | os.PathLike[str]
CLUTTER: Final = (".ds_store", ".directory", "thumbs.db", "desktop.ini")
"""What systems put into folders by themselves: ignored, as are AppleDouble files (`._NAME`)."""
_READ_BYTES: Final = 1 << 16
_ABSENT: Final = b"absent.."
_SHOWN: Final = 3


def is_clutter(name: str) -> bool:
    """Whether a file is of nobody: put there by a system, of no use to a person."""
    return name.lower() in CLUTTER or name.startswith("._")


@dataclass
class PassedOver:
    """Files and folders that are no part of a sample: how many, and the first few by name."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"files that are no part of a sample: {self.count:,}, e.g. {', '.join(self.first)}"

    def add(self, name: str | bytes, why: str = "") -> None:
        text = name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")
        shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        self.count += 1
        self.first = sorted([*self.first, shown + (f" ({why})" if why else "")])[:_SHOWN]


def read_regular(path: Path) -> bytes:
    """The whole of a file. OSError for what is none: a pipe or a device is never waited for.

    A small file takes four system calls; `open` takes seven and 3 times as long.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, and no file", os.fsdecode(path))
        data = os.read(descriptor, _READ_BYTES)
        if len(data) < _READ_BYTES:
            return data
        parts = [data]
        while parts[-1]:
            parts.append(os.read(descriptor, _READ_BYTES))
        return b"".join(parts)
    finally:
        os.close(descriptor)


def bytes_or_none(path: Path) -> bytes | None:
    """As `read_regular`; None for what cannot be read."""
    try:
        return read_regular(path)
    except OSError:
        return None


def signal_of(paths: Iterable[Path]) -> int:
    """64 bits of the stat results of these files, in this order: others when one is touched."""
    parts = []
    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            parts.append(_ABSENT)
            continue
        inode = found.st_ino & (1 << 63) - 1
        values = found.st_size, found.st_mtime_ns, found.st_ctime_ns, inode
        parts.append(struct.pack("<4q", *values))
    return xxhash.xxh3_64_intdigest(b"".join(parts))


def content_of(files: Iterable[bytes | None]) -> int:
    """64 bits of these files' bytes, in this order; None where there is none to read."""
    sums = [_ABSENT if data is None else xxhash.xxh3_64_digest(data) for data in files]
    return xxhash.xxh3_64_intdigest(b"".join(sums))
