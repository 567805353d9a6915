"""Bytes of a dataset, from a folder or through fsspec from a URL.

A local file is read with `os.pread`, so that threads share one descriptor without a lock. Local
paths never touch fsspec: importing it costs 40 ms, and a plain path has no protocol to guess.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Final, Protocol

from wdtrain.store.errors import StoreError

_COPY_BYTES: Final = 1 << 20


class RandomFile(Protocol):
    """A file read at positions: its size in bytes, and its bytes in a range. Thread-safe."""

    num_bytes: int

    def read(self, offset: int, count: int) -> bytes: ...

    def close(self) -> None: ...


class LocalFile:
    """A file on this machine."""

    def __init__(self, path: str) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.num_bytes = os.fstat(self._descriptor).st_size

    def read(self, offset: int, count: int) -> bytes:
        """The bytes [offset, offset + count), fewer at the end of the file."""
        parts = []
        while count > 0:
            part = os.pread(self._descriptor, count, offset)
            if not part:
                break
            parts.append(part)
            offset, count = offset + len(part), count - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


class RemoteFile:
    """A file behind a URL, read by range requests."""

    def __init__(self, url: str) -> None:
        self._filesystem, self._path = _filesystem_of(url)
        self.num_bytes = int(self._filesystem.size(self._path))

    def read(self, offset: int, count: int) -> bytes:
        data: bytes = self._filesystem.cat_file(self._path, start=offset, end=offset + count)
        return data

    def close(self) -> None:
        """Nothing is held open between reads."""


def is_url(path: str) -> bool:
    return "://" in path


def join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else os.path.join(folder, name)


def _filesystem_of(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise StoreError(f"{url} cannot be opened: {error}") from error
    return filesystem, path


def open_file(path: str) -> RandomFile:
    """The file at a path or URL; FileNotFoundError where there is none."""
    return RemoteFile(path) if is_url(path) else LocalFile(path)


def file_bytes(path: str) -> int:
    """The size of a file; FileNotFoundError where there is none."""
    if is_url(path):
        return RemoteFile(path).num_bytes
    return os.stat(path).st_size


def read_bytes(path: str) -> bytes:
    """The whole of a small file."""
    if not is_url(path):
        return Path(path).read_bytes()
    filesystem, inner = _filesystem_of(path)
    data: bytes = filesystem.cat_file(inner)
    return data


def sha256_of(path: str) -> tuple[int, str]:
    """(bytes, SHA-256 in hex) of a file, read once in pieces of 1 MiB."""
    file = open_file(path)
    try:
        digest = hashlib.sha256()
        for offset in range(0, file.num_bytes, _COPY_BYTES):
            digest.update(file.read(offset, _COPY_BYTES))
        return file.num_bytes, digest.hexdigest()
    finally:
        file.close()
