"""Ranges of remote files kept on a local disk, within a budget, for the next epoch and run.

Owns one folder, in which each range is a file: a checksum over key and bytes, then the bytes. There
is no index, no lock and no server: all that is known is read from the names in the folder, so that
several processes may share it and any of them may be killed at any moment. The surprise: the folder
is cut into sets, each with its share of the budget, so that making room looks at one set alone;
hence it holds a tenth less than its budget before something goes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import threading
import time
import uuid
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import xxhash

_FOLDER: Final = "ranges-1"
"""Where the ranges lie below the folder that the user named; the number is the format's."""

_NUM_LEAVES: Final = 256
_SET_BYTES: Final = 256 << 20
"""A set is at least this large: with blocks of 0.3 MiB the sets then differ by some 4 % in what
comes to them, and making room lists a thousand names, which takes a millisecond."""

_SLACK: Final = 16
"""Making room frees a sixteenth of a set, so that it is not done again for each range."""

_STALE_SECONDS: Final = 600.0
"""A file that was begun this long ago and has not got its name: its writer was killed."""

_CHECKSUM_BYTES: Final = 16
_NAME: Final = re.compile(r"[0-9a-f]{32}-(\d+)(\.[0-9a-f]{32}\.part)?")


class _Entry(NamedTuple):
    """A file of the cache: what it counts for, and whether it is still being written."""

    path: str
    num_bytes: int
    is_begun: bool


class RangeCache:
    """The ranges kept in a folder. Thread-safe, and shared by processes.

    Never larger than its budget by more than what is being written at that moment. A disk that is
    full or cannot be written is warned of once; after that nothing more is kept.
    """

    def __init__(self, folder: str, *, max_bytes: int) -> None:
        self._folder = Path(folder).expanduser() / _FOLDER
        sets = max(1, min(_NUM_LEAVES, max_bytes // _SET_BYTES))
        self._num_sets = 1 << (sets.bit_length() - 1)
        self._set_bytes = max_bytes // self._num_sets
        self._lock = threading.Lock()
        self._is_usable = True
        self._has_warned = False

    def get(self, key: str, num_bytes: int) -> bytes | None:
        """The bytes kept under a key, now the most recently used; None where there are none.

        What is not exactly what was kept is removed.
        """
        path = self._path(key, num_bytes)
        try:
            with open(path, "rb") as file:
                checksum, data = file.read(_CHECKSUM_BYTES), file.read()
                with suppress(PermissionError):  # another user's file: it ages, no harm
                    os.utime(file.fileno())
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn("read", error)
            return None
        if len(data) == num_bytes and checksum == _checksum(key, data):
            return data
        self.discard(key, num_bytes)
        return None

    def put(self, key: str, data: bytes) -> None:
        """The bytes are kept under a key, if there is or can be made room for them."""
        path = self._path(key, len(data))
        if not self._is_usable or len(data) + _CHECKSUM_BYTES > self._set_bytes:
            return
        begun = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
        try:
            try:
                self._write(begun, _checksum(key, data), data)
                # Made room for when it is already there, so that of several processes that
                # write at once at least the last one sees them all.
                if self._make_room(path.parent.name):
                    os.rename(begun, path)
            finally:
                begun.unlink(missing_ok=True)
        except FileNotFoundError:
            return  # somebody emptied the folder meanwhile: this range is not kept, the next is
        except OSError as error:
            self._is_usable = False
            self._warn("written", error)

    def discard(self, key: str, num_bytes: int) -> None:
        """Nothing is kept under a key."""
        self._remove(str(self._path(key, num_bytes)))

    @property
    def num_bytes(self) -> int:
        """The bytes in the folder, begun files included. Reads every name."""
        return sum(entry.num_bytes for leaf in range(_NUM_LEAVES) for entry in self._list(leaf))

    # ------------------------------------------------------------------ inside

    def _path(self, key: str, num_bytes: int) -> Path:
        name = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        return self._folder / name[:2] / f"{name}-{num_bytes + _CHECKSUM_BYTES}"

    def _write(self, path: Path, *parts: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            for part in parts:
                file.write(part)

    def _list(self, leaf: int) -> list[_Entry]:
        try:
            with os.scandir(self._folder / f"{leaf:02x}") as files:
                found = [(file.path, _NAME.fullmatch(file.name)) for file in files]
        except FileNotFoundError:
            return []
        return [_Entry(path, int(match[1]), match[2] is not None) for path, match in found if match]

    def _make_room(self, leaf_name: str) -> bool:
        """Whether the set of a leaf fits its share, after the least recently used ones went."""
        first = int(leaf_name, 16) % self._num_sets
        entries = [
            entry
            for leaf in range(first, _NUM_LEAVES, self._num_sets)
            for entry in self._list(leaf)
        ]
        held = sum(entry.num_bytes for entry in entries)
        if held <= self._set_bytes:
            return True
        wanted = self._set_bytes - self._set_bytes // _SLACK
        for _, entry in sorted(_by_age(entries)):
            if held <= wanted:
                break
            self._remove(entry.path)
            held -= entry.num_bytes
        return held <= self._set_bytes

    def _remove(self, path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return  # another process made room too
        except OSError as error:
            self._is_usable = False
            self._warn("emptied", error)

    def _warn(self, verb: str, error: OSError) -> None:
        with self._lock:
            if self._has_warned:
                return
            self._has_warned = True
        why = "it is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
        warnings.warn(
            f"the cache folder {self._folder.parent} cannot be {verb} ({why}), so remote data is "
            "read without it; free space there, or name another folder in data.cache",
            RuntimeWarning,
            stacklevel=2,
        )


def _checksum(key: str, data: bytes) -> bytes:
    """XXH3-128 of the bytes, seeded by their key: a file under another's name does not fit."""
    return xxhash.xxh3_128_digest(data, seed=xxhash.xxh64_intdigest(key.encode()))


def _by_age(entries: list[_Entry]) -> list[tuple[float, _Entry]]:
    """Those that may go, with the time of their last use; files being written may not."""
    aged = []
    stale = time.time() - _STALE_SECONDS
    for entry in entries:
        with suppress(FileNotFoundError):  # another process made room too
            used = os.stat(entry.path).st_mtime
            if not entry.is_begun or used < stale:
                aged.append((used, entry))
    return aged
