"""Files behind URLs, on networks that fail: read by ranges, tried again, read ahead, kept on disk.

Owns how remote data is reached; hands on files that are read at positions like local ones. The
surprise: what is kept on disk goes by the SHA-256 that the manifest gives for a shard, not by its
URL, so a dataset that was replaced is never mixed with what was kept of the old one.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from wdtrain.disk.failures import StoreError
from wdtrain.remote.prefetcher import BoundedPrefetcher
from wdtrain.remote.range_cache import RangeCache
from wdtrain.remote.retries import Closed, Passing, Patience
from wdtrain.remote.urls import protocol_of, redacted

if TYPE_CHECKING:
    from wdtrain.remote.transport import Transport


@dataclass(frozen=True, kw_only=True)
class RemoteAccess:
    """How remote data is reached.

    `cache_folder` keeps what was read, at most `cache_bytes` of it (None: nothing is kept). A
    request that has not ended after `timeout_seconds`, and a second for each MiB it asks for, has
    failed; it is made up to `tries` times, the second one after some `pause_seconds`, which double
    from there. `connections` ranges at once are read ahead, of which `ahead_bytes` may be held.
    """

    cache_folder: str | None = None
    cache_bytes: int = 20 << 30
    tries: int = 8
    timeout_seconds: float = 30.0
    pause_seconds: float = 0.25
    connections: int = 8
    ahead_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        for name, least in (("tries", 1), ("connections", 1), ("cache_bytes", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds is {self.timeout_seconds}; it must be above 0")


class Remote:
    """The way to the files of one store. Thread-safe; a copy in another process connects anew."""

    def __init__(self, access: RemoteAccess | None = None) -> None:
        self.access = access or RemoteAccess()
        self.patience = Patience(tries=self.access.tries, pause_seconds=self.access.pause_seconds)
        self.prefetcher: BoundedPrefetcher[bytes | None] = BoundedPrefetcher(
            max_threads=self.access.connections, max_bytes=self.access.ahead_bytes
        )
        folder = self.access.cache_folder
        self.cache = RangeCache(folder, max_bytes=self.access.cache_bytes) if folder else None
        self._lock = threading.Lock()
        self._transports: dict[tuple[str, int], Transport] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Remote, (self.access,)

    def transport(self, url: str) -> Transport:
        """The connections to a URL's store; StoreError where it cannot be spoken to."""
        from wdtrain.remote.transport import connect

        key = (protocol_of(url), os.getpid())  # connections do not survive a fork
        with self._lock:
            if key not in self._transports:
                self._transports[key] = connect(url, timeout_seconds=self.access.timeout_seconds)
            return self._transports[key]

    def num_bytes(self, url: str) -> int:
        """The size of a file; FileNotFoundError where there is none, StoreError where refused."""
        closed = threading.Event()
        ask = partial(self.transport(url).num_bytes, url, closed=closed)
        return self.patience.until_answered(f"the size of {redacted(url)}", ask, closed=closed)

    def open(
        self, url: str, *, num_bytes: int | None = None, identity: str | None = None
    ) -> RemoteFile:
        """The file at a URL. Its size is asked for unless it is given.

        `identity` names its content (a shard's SHA-256): what is read of it is then kept.
        """
        size = self.num_bytes(url) if num_bytes is None else num_bytes
        return RemoteFile(self, url, size, identity)


@dataclass(frozen=True)
class _Range:
    """Bytes of a file, and all that is needed to get them once; holds no file open."""

    remote: Remote
    url: str
    file_bytes: int
    identity: str | None
    closed: threading.Event
    offset: int
    count: int

    def __str__(self) -> str:
        return f"{redacted(self.url)}, bytes {self.offset:,} to {self.offset + self.count - 1:,}"

    def read_once(self) -> bytes:
        """From the disk, else from the store by one request."""
        if self.closed.is_set():
            raise Closed(redacted(self.url))
        cache, key = self.cache, self.key
        kept = cache.get(key, self.count) if cache else None
        if kept is not None:
            return kept
        data = self.remote.transport(self.url).fetch(
            self.url, self.offset, self.count, num_bytes=self.file_bytes, closed=self.closed
        )
        if cache:
            cache.put(key, data)
        return data

    def read_if_it_can(self) -> bytes | None:
        """The same ahead of time: what goes wrong is left to whoever needs the bytes."""
        try:
            return self.read_once()
        except (Passing, OSError, StoreError):
            return None

    @property
    def key(self) -> str:
        return f"{self.identity}:{self.offset}:{self.count}"

    @property
    def cache(self) -> RangeCache | None:
        return self.remote.cache if self.identity is not None else None


class RemoteFile:
    """A file behind a URL, read by range requests. Thread-safe."""

    def __init__(self, remote: Remote, url: str, num_bytes: int, identity: str | None) -> None:
        self.num_bytes = num_bytes
        self._remote, self._url, self._identity = remote, url, identity
        self._closed = threading.Event()
        self._owner = object()  # of what is read ahead; an id() would come again

    def read(self, offset: int, count: int) -> bytes:
        """The bytes [offset, offset + count), fewer at the end of the file.

        OSError after the last try, FileNotFoundError and StoreError (no rights, another file than
        the manifest's) at once. Once another thread calls `close`: OSError.
        """
        asked = self._range(offset, count)
        if asked.count == 0:
            return b""
        prefetched = self._remote.prefetcher.take((self._owner, asked.offset, asked.count))
        data = None if prefetched is None else prefetched.result()
        if data is not None:
            return data
        patience = self._remote.patience
        return patience.until_answered(str(asked), asked.read_once, closed=self._closed)

    def prefetch(self, offset: int, count: int) -> None:
        """A hint that this very range is soon read: it is read ahead while there is room.

        What fails on the way is read again by `read`, which then tries again, or says why not.
        """
        asked = self._range(offset, count)
        if asked.count and not self._closed.is_set():
            key = (self._owner, asked.offset, asked.count)
            self._remote.prefetcher.hint(key, asked.count, asked.read_if_it_can)

    def forget(self, offset: int, count: int) -> None:
        """This range, found to be damaged, is not kept: the next read asks the store again."""
        asked = self._range(offset, count)
        if asked.cache is not None:
            asked.cache.discard(asked.key, asked.count)

    def close(self) -> None:
        """Reads that wait end with an OSError, and nothing is read ahead any more."""
        self._closed.set()
        self._remote.prefetcher.drop(self._owner)

    def __del__(self) -> None:
        self._closed.set()
        self._remote.prefetcher.abandon(self._owner)

    def _range(self, offset: int, count: int) -> _Range:
        count = max(0, min(count, self.num_bytes - offset))
        about = (self._remote, self._url, self.num_bytes, self._identity, self._closed)
        return _Range(*about, offset, count)
