"""Bytes of a dataset, from a folder or from a URL.

A local file is read with `os.pread`, so that threads share one descriptor without a lock. Local
paths never touch fsspec: importing it costs 40 ms, and a plain path has no protocol to guess.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from wdtrain.remote.remote_files import Remote
from wdtrain.remote.urls import is_url, join_url

__all__ = [
    "RandomFile",
    "file_bytes",
    "is_url",
    "join_url",
    "open_file",
    "pieces_of",
    "read_bytes",
    "sha256_of",
]

_PIECE_BYTES: Final = 4 << 20
"""Whole files are read in pieces of this size: each has its own time limit where it is remote."""

_PIECES_AHEAD: Final = 4


class RandomFile(Protocol):
    """A file read at positions: its size in bytes, and its bytes in a range. Thread-safe."""

    num_bytes: int

    def read(self, offset: int, count: int) -> bytes:
        """The bytes [offset, offset + count), fewer at the end of the file."""
        ...

    def prefetch(self, offset: int, count: int) -> None:
        """A hint that this very range is soon read; costs nothing, promises nothing."""
        ...

    def forget(self, offset: int, count: int) -> None:
        """This range was found to be damaged: a copy of it that was kept is not read again."""
        ...

    def close(self) -> None: ...


class LocalFile:
    """A file on this machine."""

    def __init__(self, path: str) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.num_bytes = os.fstat(self._descriptor).st_size

    @property
    def descriptor(self) -> int:
        """The open file's; good for as long as this object is held and not closed."""
        return self._descriptor

    def read(self, offset: int, count: int) -> bytes:
        parts = []
        while count > 0:
            part = os.pread(self._descriptor, count, offset)
            if not part:
                break
            parts.append(part)
            offset, count = offset + len(part), count - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_into(self, offset: int, target: memoryview) -> int:
        """Fills `target` with the bytes from `offset` on; how many there were."""
        done = 0
        while done < len(target):
            part = os.preadv(self._descriptor, [target[done:]], offset + done)
            if not part:
                break
            done += part
        return done

    def prefetch(self, offset: int, count: int) -> None:
        if hasattr(os, "posix_fadvise"):  # not on every system
            os.posix_fadvise(self._descriptor, offset, count, os.POSIX_FADV_WILLNEED)

    def forget(self, offset: int, count: int) -> None:
        """Nothing is kept of a local file."""

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


def open_file(path: str, *, remote: Remote | None = None) -> RandomFile:
    """The file at a path or URL; FileNotFoundError where there is none.

    `remote` says how a URL is reached; None: as is usual, and nothing of it is kept.
    """
    return (remote or Remote()).open(path) if is_url(path) else LocalFile(path)


def file_bytes(path: str, *, remote: Remote | None = None) -> int:
    """The size of a file; FileNotFoundError where there is none."""
    return (remote or Remote()).num_bytes(path) if is_url(path) else os.stat(path).st_size


def read_bytes(path: str, *, remote: Remote | None = None) -> bytes:
    """The whole of a file that fits into memory."""
    if not is_url(path):
        return Path(path).read_bytes()
    return b"".join(pieces_of(path, remote))


def sha256_of(path: str, *, remote: Remote | None = None) -> tuple[int, str]:
    """(bytes, SHA-256 in hex) of a file, read once in pieces of 4 MiB."""
    digest, num_bytes = hashlib.sha256(), 0
    for piece in pieces_of(path, remote):
        digest.update(piece)
        num_bytes += len(piece)
    return num_bytes, digest.hexdigest()


def pieces_of(path: str, remote: Remote | None = None) -> Iterator[bytes]:
    """The bytes of a file in order, a few pieces read ahead."""
    file = open_file(path, remote=remote)
    try:
        for offset in range(0, file.num_bytes, _PIECE_BYTES):
            for ahead in range(1, 1 + _PIECES_AHEAD):
                file.prefetch(offset + ahead * _PIECE_BYTES, _PIECE_BYTES)
            yield file.read(offset, _PIECE_BYTES)
    finally:
        file.close()
