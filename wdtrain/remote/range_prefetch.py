"""Ranges read before they are asked for, on a few threads, within a bound of bytes.

Owns what was hinted and not yet taken; hands each on once. The surprise: there is no thread at
rest. Each ends as soon as there is nothing to begin, so nothing has to be shut down, and they are
daemons, so a process can always exit.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

MAX_WAITING: Final = 4096
"""Hints that wait for room; of more than that the oldest are forgotten."""

Key = tuple[Hashable, int, int]
"""(owner, offset, count)"""


@dataclass(frozen=True)
class _Hint:
    """A range that is soon read: how to load it, and its bytes, or None where that failed."""

    num_bytes: int
    load: Callable[[], bytes | None]
    loaded: Future[bytes | None] = field(default_factory=Future)


class Ahead:
    """What is read ahead. Thread-safe.

    At most `max_bytes` are held or in flight; further hints wait until some are taken. A range
    that is taken before its turn has come says that older ones were passed by: then the oldest
    that is held is dropped, so that what is never read cannot keep its room for ever.
    """

    def __init__(self, *, max_threads: int, max_bytes: int) -> None:
        self._max_threads, self._max_bytes = max_threads, max_bytes
        self._lock = threading.Lock()
        self._waiting: dict[Key, _Hint] = {}
        self._held: dict[Key, _Hint] = {}
        self._held_bytes = 0
        self._num_threads = 0
        self._abandoned: deque[Hashable] = deque()

    def hint(self, key: Key, load: Callable[[], bytes | None]) -> None:
        """The range of `key` is soon taken: `load` is called when there is room."""
        count = key[2]
        with self._lock:
            self._drop_abandoned()
            if count > self._max_bytes or key in self._waiting or key in self._held:
                return
            if len(self._waiting) >= MAX_WAITING:
                del self._waiting[next(iter(self._waiting))]
            self._waiting[key] = _Hint(count, load)
            self._start_threads()

    def take(self, key: Key) -> bytes | None:
        """The bytes of a hinted range, waited for if they are on their way, and forgotten here.

        None where it was not hinted, not begun, dropped, or could not be loaded.
        """
        with self._lock:
            self._drop_abandoned()
            hint = self._held.pop(key, None)
            if hint is not None:
                self._held_bytes -= hint.num_bytes
            elif self._waiting.pop(key, None) is not None:
                self._drop_oldest()
            self._start_threads()
        return None if hint is None else hint.loaded.result()

    def drop(self, owner: Hashable) -> None:
        """Nothing is held or begun for this owner any more."""
        self.abandon(owner)
        with self._lock:
            self._drop_abandoned()
            self._start_threads()

    def abandon(self, owner: Hashable) -> None:
        """The same, done by whoever comes next. For finalizers, which may run in any thread at any
        moment, also in one that holds the lock."""
        self._abandoned.append(owner)

    @property
    def held_bytes(self) -> int:
        """Bytes held or in flight that nobody has taken."""
        return self._held_bytes

    # ------------------------------------------------------------------ under the lock

    def _drop_abandoned(self) -> None:
        while self._abandoned:
            owner = self._abandoned.popleft()
            for key in [key for key in self._waiting if key[0] == owner]:
                del self._waiting[key]
            for key in [key for key in self._held if key[0] == owner]:
                self._held_bytes -= self._held.pop(key).num_bytes

    def _drop_oldest(self) -> None:
        for key, hint in self._held.items():
            if hint.loaded.done():
                self._held_bytes -= self._held.pop(key).num_bytes
                return

    def _begin_next(self) -> _Hint | None:
        for key, hint in self._waiting.items():
            if self._held_bytes + hint.num_bytes > self._max_bytes:
                return None
            self._held[key] = self._waiting.pop(key)
            self._held_bytes += hint.num_bytes
            return hint
        return None

    def _start_threads(self) -> None:
        while self._num_threads < self._max_threads:
            hint = self._begin_next()
            if hint is None:
                return
            self._num_threads += 1
            threading.Thread(
                target=self._work, args=(hint,), daemon=True, name="wdtrain-ahead"
            ).start()

    # ------------------------------------------------------------------ in the threads

    def _work(self, hint: _Hint | None) -> None:
        try:
            while hint is not None:
                hint.loaded.set_result(hint.load())
                with self._lock:
                    hint = self._begin_next()
        finally:
            if hint is not None:  # `load` is at fault, yet whoever waits for it must go on
                hint.loaded.set_result(None)
            with self._lock:
                self._num_threads -= 1
                self._start_threads()
