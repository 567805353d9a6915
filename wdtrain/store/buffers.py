"""Memory that is used again: touching fresh pages costs as much as copying into them.

Gives arrays, and takes their memory back when nothing shows it any more. The surprise: a device may
still read it then. A copy from page-locked memory is only queued when the call that asks for it
comes back, so such memory is given again when the events behind its copies have passed.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Final, Protocol

import numpy as np

KEPT: Final = 8
"""Arrays whose memory is kept for the next ones by default: what is idle stays small
beside what is used, however sizes differ."""

_SPARE: Final = 8
"""An eighth more is asked for than is needed, so that what is of about one size can follow one
another; pages that are not touched take no memory."""


class Event(Protocol):
    """A place in a device's queue, as torch.cuda.Event: whether all before it is done, and to wait
    for that."""

    def query(self) -> bool: ...
    def synchronize(self) -> object: ...


class Lease:
    """How long an array's memory is read by devices, beyond the life of all that shows it."""

    def __init__(self) -> None:
        self._events: dict[Hashable, Event] = {}

    def read_until(self, event: Event, queue: Hashable) -> None:
        """The memory is read until the event; of one queue (a stream) the last event counts."""
        self._events[queue] = event

    def is_over(self) -> bool:
        return all(event.query() for event in self._events.values())

    def wait(self) -> None:
        for event in self._events.values():
            event.synchronize()


def _ordinary(num_bytes: int) -> np.ndarray:
    return np.empty(num_bytes, np.uint8)


class Recycled:
    """Thread-safe. allocate: uninitialised uint8 [num_bytes]; None: ordinary memory. released:
    called with each lease when nothing shows its memory any more, to add what may still read it.
    kept: arrays whose memory is kept for the next ones."""

    def __init__(
        self,
        allocate: Callable[[int], np.ndarray] | None = None,
        released: Callable[[Lease], None] | None = None,
        *,
        kept: int = KEPT,
    ) -> None:
        self._allocate, self._kept = allocate or _ordinary, kept
        self._released = released
        self._free: list[np.ndarray] = []
        self._read: list[tuple[np.ndarray, Lease]] = []
        self._lock = threading.Lock()
        # What is read must not be freed either: its pages would be somebody else's.
        weakref.finalize(self, _wait_for_all, self._read).atexit = False

    def take(self, num_bytes: int, lease: Lease | None = None) -> np.ndarray:
        """Uninitialised uint8 [num_bytes]; its memory is given again when neither it nor anything
        made of it is left, and the lease is over."""
        owner = self._fitting(num_bytes)
        if owner is None:
            owner = self._allocate(num_bytes + num_bytes // _SPARE + 1)
        # Through a memoryview, since numpy passes over arrays in a chain of views: what is made of
        # `array` must hold that object itself, so that its end is the end of them all.
        array = np.frombuffer(owner.data, np.uint8, num_bytes)
        weakref.finalize(array, self._take_back, owner, lease).atexit = False
        return array

    def _fitting(self, num_bytes: int) -> np.ndarray | None:
        """One that is free, large enough and not much larger. Where none is, and all that may be
        kept is kept, the oldest goes: sizes have changed."""
        with self._lock:
            self._free_what_was_read()
            for place, owner in enumerate(self._free):
                if num_bytes < owner.nbytes <= num_bytes + num_bytes // 2 + 1:
                    return self._free.pop(place)
            if len(self._free) >= self._kept:
                del self._free[0]
        return None

    def _free_what_was_read(self) -> None:
        for place in reversed(range(len(self._read))):
            owner, lease = self._read[place]
            if lease.is_over():
                del self._read[place]
                self._keep(owner)

    def _take_back(self, owner: np.ndarray, lease: Lease | None) -> None:
        # May run wherever the last reference goes, also while this thread holds the lock above:
        # so no lock here, and nothing but appending, which moves no other.
        if lease is not None and self._released is not None:
            self._released(lease)
        if lease is None or lease.is_over():
            self._keep(owner)
        else:
            self._read.append((owner, lease))

    def _keep(self, owner: np.ndarray) -> None:
        if len(self._free) < self._kept:  # one too many, from another thread, does no harm
            self._free.append(owner)


def _wait_for_all(read: list[tuple[np.ndarray, Lease]]) -> None:
    for _, lease in read:
        lease.wait()
