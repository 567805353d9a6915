"""What is loaded before it is asked for, on a few threads, within a bound of bytes.

The one mechanism that reads ahead: ranges of remote files and blocks of remote shards go through
it. Owns what was hinted and not yet taken; hands each on once. The surprise: there is no thread at
rest. Each ends as soon as there is nothing to begin, so nothing has to be shut down, and they are
daemons, so a process can always exit.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

MAX_WAITING: Final = 4096
"""Hints that wait for room; of more than that the oldest are forgotten."""

Key = tuple[Hashable, ...]
"""The owner, and then what distinguishes the things that are loaded for it."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Hint(Generic[_T]):
    """What is soon taken: how many bytes it has, how to load it, and what was loaded."""

    num_bytes: int
    load: Callable[[], _T]
    loaded: Future[_T] = field(default_factory=Future)


class BoundedPrefetcher(Generic[_T]):
    """What is loaded ahead. Thread-safe.

    At most `max_bytes` are held or in flight (None: as many as are hinted); further hints wait
    until some are taken. Something that is taken while it still waits for room says that older
    ones were passed by: then the oldest that is held is dropped, so that what is never taken
    cannot keep its room for ever.
    """

    def __init__(self, *, max_threads: int, max_bytes: int | None) -> None:
        self._max_threads, self._max_bytes = max_threads, max_bytes
        self._lock = threading.Lock()
        self._waiting: dict[Key, _Hint[_T]] = {}
        self._held: dict[Key, _Hint[_T]] = {}
        self._held_bytes = 0  # also of what is in flight
        self._threads: set[threading.Thread] = set()
        self._abandoned: deque[Hashable] = deque()

    def hint(self, key: Key, num_bytes: int, load: Callable[[], _T]) -> None:
        """`key` is soon taken: `load` is called when there is room for its bytes."""
        with self._lock:
            self._drop_abandoned()
            if self._exceeds(num_bytes) or key in self._waiting or key in self._held:
                return
            if len(self._waiting) >= MAX_WAITING:
                del self._waiting[next(iter(self._waiting))]
            self._waiting[key] = _Hint(num_bytes, load)
            self._start_threads()

    def take(self, key: Key) -> Future[_T] | None:
        """What was hinted, loaded or on its way, and forgotten here; whoever takes it gets the
        error that loading it raised.

        None where it was not hinted, not begun or dropped: then it has to be loaded without this.
        """
        with self._lock:
            self._drop_abandoned()
            hint = self._held.pop(key, None)
            if hint is not None:
                self._held_bytes -= hint.num_bytes
            else:
                passed_by = self._waiting.pop(key, None)
                if passed_by is not None and self._exceeds(self._held_bytes + passed_by.num_bytes):
                    self._drop_oldest()
            self._start_threads()
        return None if hint is None else hint.loaded

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

    def join(self) -> None:
        """Waits until all that was begun is loaded; to be called once nothing waits any more."""
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def __len__(self) -> int:
        """How many are hinted and not taken."""
        return len(self._held) + len(self._waiting)

    # ------------------------------------------------------------------ under the lock

    def _exceeds(self, num_bytes: int) -> bool:
        return self._max_bytes is not None and num_bytes > self._max_bytes

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

    def _begin_next(self) -> _Hint[_T] | None:
        for key, hint in self._waiting.items():
            if self._exceeds(self._held_bytes + hint.num_bytes):
                return None
            self._held[key] = self._waiting.pop(key)
            self._held_bytes += hint.num_bytes
            return hint
        return None

    def _start_threads(self) -> None:
        while len(self._threads) < self._max_threads:
            hint = self._begin_next()
            if hint is None:
                return
            thread = threading.Thread(
                target=self._work, args=(hint,), daemon=True, name="wdtrain-prefetch"
            )
            self._threads.add(thread)
            thread.start()

    # ------------------------------------------------------------------ in the threads

    def _work(self, hint: _Hint[_T]) -> None:
        following: _Hint[_T] | None = hint
        while following is not None:
            try:
                following.loaded.set_result(following.load())
            except BaseException as error:  # noqa: BLE001 - whoever waits for it hears of it
                following.loaded.set_exception(error)
            with self._lock:
                following = self._begin_next()
                if following is None:
                    self._threads.discard(threading.current_thread())
